"""Messages that no test of their own room triggers: each is made here, in the user's way where there is one."""

from __future__ import annotations

import resource
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import scale_toolkit
from scale_toolkit import keys
from scale_toolkit.cli import app
from scale_toolkit.config import ClusterConfig, PrepareConfig, TrainConfig
from scale_toolkit.errors import DeviceError, InputError, NothingLeftError, OptionError, ScaleError
from scale_toolkit.io import files
from scale_toolkit.io.cells import read_cells
from scale_toolkit.io.checkpoints import Checkpoints
from scale_toolkit.io.export import export
from scale_toolkit.io.h5ad import write_h5ad
from scale_toolkit.io.readers import read_any
from scale_toolkit.stages.counts import counts_of
from scale_toolkit.stages.gpu import find_device


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train cells.h5ad --model - -o out.h5ad", "--model is -; expected a path"),
        ("train cells.h5ad --checkpoint at --pretrain cells.h5ad -o out.h5ad", "both --checkpoint and --pretrain"),
        ("prepare - - -o out.h5ad", "standard input is given twice"),
        (
            "prepare cells.h5ad --batch-names a,b -o out.h5ad",
            "--batch-names has 2 names; expected one for each of the 1 inputs",
        ),
        ("prepare cells.h5ad --fragments cells.h5ad --peaks cells.h5ad -o out.h5ad", "--fragments and the input cells.h5ad"),
        ("prepare --fragments f --peaks p --modality atac -o out.h5ad", "both --fragments and --modality"),
        ("doublets - --fragments - -o out.h5ad", "standard input is given twice"),
        ("impute cells.h5ad --per-group a --assembly hg38 -o out.h5ad", "--assembly without --group-dir"),
        ("impute cells.h5ad --per-group a --group-dir g --assembly h/38 -o out.h5ad", "--assembly is 'h/38'; expected the name"),
    ],
)
def test_words_that_contradict_each_other(plant, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    plant().write_h5ad("cells.h5ad")
    with pytest.raises(SystemExit) as end:
        app.main(words.split())
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_where_nothing_may_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(SystemExit) as end:
        app.main(["run", "cells.h5ad", "-o", str(tmp_path / "results")])
    assert end.value.code == 2
    assert "no permission to write in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(n_components=None), "n_components is None; expected a value"),
        (lambda: TrainConfig(log_transform=1), "log_transform is 1; expected True or False"),
        (lambda: PrepareConfig(layer=3), "layer is 3; expected a string"),
    ],
)
def test_options_of_another_kind(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_a_config_is_the_stages_own_and_alone(planted):
    with pytest.raises(OptionError, match="got a ClusterConfig; expected a TrainConfig"):
        scale_toolkit.train(planted, ClusterConfig())
    with pytest.raises(OptionError, match="got a config and options; expected one of the two; drop latent"):
        scale_toolkit.train(planted, TrainConfig(), latent=3)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "cells.h5ad").write_text("counts")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match=r"cells.h5ad cannot be read \(no permission\)"):
        files.existing_file(tmp_path / "cells.h5ad")


def test_counts_that_an_export_cannot_hold(plant, tmp_path):
    cells = plant()
    cells.X = sparse.csr_matrix(cells.X, dtype=np.float64)
    cells.X.data[0] = 3e9
    with pytest.raises(InputError, match="a count of 3000000000; expected counts below 2³¹"):
        export(cells, tmp_path / "cells.h5", to="10x")
    cells.X.data[0] = np.nan
    with pytest.raises(InputError, match="the matrix holds values that are not numbers"):
        export(cells, tmp_path / "cells.h5", to="10x")
    assert list(tmp_path.iterdir()) == []


def test_counts_that_are_texts(plant):
    cells = plant()
    cells.layers["words"] = np.full(cells.shape, "a", dtype=object)
    with pytest.raises(InputError, match="holds values of type object; expected counts"):
        scale_toolkit.prepare(cells, layer="words")


def test_no_counts_to_train_on(planted):
    with pytest.raises(InputError, match="X is empty; expected counts"):
        counts_of(anndata.AnnData(obs=planted.obs, var=planted.var))


def test_a_gpu_beyond_the_last(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match="cuda:3 was requested and there are 1 GPUs"):
        find_device("cuda:3")


def test_imputed_values_for_dask_without_dask(plant, monkeypatch):
    cells = scale_toolkit.prepare(plant(), min_peaks=1, min_cells=1)
    cells = scale_toolkit.train(cells, n_components=2, max_iter=3, n_threads=1)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(InputError, match="dask is not installed"):
        scale_toolkit.imputed(cells).to_dask()


def test_a_name_of_a_peak_twice_where_a_model_encodes(plant):
    cells = scale_toolkit.prepare(plant(), min_peaks=1, min_cells=1)
    kept: list[bytes] = []
    scale_toolkit.train(cells.copy(), n_components=2, max_iter=3, n_threads=1, keep_model=kept.append)
    cells.var_names = [cells.var_names[1], *cells.var_names[1:]]
    with pytest.raises(InputError, match="is duplicated; expected unique names of peaks"):
        scale_toolkit.encode(cells, model=kept[0])


def test_a_checkpoint_that_may_not_be_read(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    kept = Checkpoints(tmp_path, 10)
    kept.save(1, {"weights": np.zeros(2)}, {"epoch": 1})
    monkeypatch.setattr("pathlib.Path.read_bytes", refused)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        kept.load()


def test_a_list_of_barcodes_without_one(tmp_path):
    (tmp_path / "barcodes.txt").write_text("\n \n")
    with pytest.raises(InputError, match=r"barcodes.txt contains no name; expected one a line"):
        read_cells(tmp_path / "barcodes.txt")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"1', r"counts.tsv, lines 2 to 3 cannot be read; expected counts"),
        ("1_000", r"counts.tsv, line 3, column b: '1_000'; expected a count"),
    ],
)
def test_a_table_with_a_quote_without_an_end_or_a_number_only_python_reads(tmp_path, value, message):
    (tmp_path / "counts.tsv").write_text(f"\ta\tb\nchr1:0-9\t1\t0\nchr1:20-29\t0\t{value}\n")
    with pytest.raises(InputError, match=message):
        read_any(tmp_path / "counts.tsv")


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_a_disk_that_is_full(planted, tmp_path, name):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(ScaleError, match=rf"{name} cannot be written \(File too large\); free some space"):
            write_h5ad(planted, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_none_of_the_peaks_asked_for_is_trusted(plant):
    cells = scale_toolkit.train(scale_toolkit.prepare(plant(), min_peaks=1), n_components=2, max_iter=3, n_threads=1)
    keys.TRUST.set(cells, np.arange(cells.n_vars) > 0)
    with pytest.raises(NothingLeftError, match="none of the 1 requested peaks is trusted"):
        scale_toolkit.impute(cells, only_trusted=True, peaks=[cells.var_names[0]])


def test_too_little_to_hide(plant):
    cells = scale_toolkit.prepare(plant(20, 30, open_share=0.03), min_peaks=1, min_cells=1)
    cells = scale_toolkit.train(cells, n_components=2, max_iter=3, n_threads=1)
    with pytest.raises(NothingLeftError, match=r"none of [0-9]+ open peaks was hidden; expected some; raise validate_share"):
        scale_toolkit.impute(cells, validate=True, validate_share=0.01, n_threads=1)


def test_what_receipts_do_not_hold(plant):
    cells = plant()
    result = scale_toolkit.prepare(cells.copy(), min_peaks=1)
    result = scale_toolkit.cluster(scale_toolkit.train(result, n_components=2, max_iter=3, n_threads=1), n_threads=1)
    many = scale_toolkit.impute(result.copy(), peaks=list(result.var_names[:101]), n_threads=1)
    with pytest.raises(InputError, match="impute was given a list of 101 peaks, which the receipt does not hold"):
        scale_toolkit.verify(many, cells)
    genes = pd.DataFrame({"chrom": ["chr1", "chr2", "chr3"], "tss": 9, "strand": "+", "gene_id": "a", "gene_name": "A"})
    near = scale_toolkit.markers(result.copy(), genes=genes)
    with pytest.raises(InputError, match="markers was given genes, which the file does not hold"):
        scale_toolkit.verify(near, cells)
