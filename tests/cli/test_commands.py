"""The commands whole, on real data: by file in this process (libraries load once), and in a real shell where it matters:
pipes, redirections, signals, terminals, full disks.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

import scale_toolkit
from scale_toolkit import keys
from scale_toolkit.cli import app
from scale_toolkit.stages.train import FAST_REVISION

SCALE = Path(sys.executable).with_name("scale")
QUICK = "--max-iter 20 --n-threads 1"


def call(command: str, folder: Path) -> tuple[int, str, str]:
    """Run ``scale ...`` or ``SCALE.py ...`` in `folder`, in this process; returns exit code, stdout and stderr."""
    program, *words = command.split()
    on_term = signal.getsignal(signal.SIGTERM)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app.main(words if program == "scale" else ["run", *words])
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGTERM, on_term)
    return code, out.getvalue(), err.getvalue()


def done(commands: str, folder: Path) -> str:
    """Run commands joined by ``&&``; all must end well, with nothing on stdout. Returns what was said on stderr."""
    said = ""
    for command in commands.split(" && "):
        code, out, err = call(command, folder)
        assert (code, out) == (0, ""), err
        said += err
    return said


@pytest.fixture(scope="session")
def counts(tmp_path_factory, data_path):
    """A small real file: 167 cells of two lines."""
    return data_path("tiny_two_lines.h5ad")


def sh(command: str, folder: Path, **how) -> subprocess.CompletedProcess:
    """Run a line of bash in `folder` as a user would: warnings of libraries are not errors there."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    environment |= {"PATH": f"{SCALE.parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **how,
    )


def good(command: str, folder: Path, **how) -> subprocess.CompletedProcess:
    result = sh(command, folder, **how)
    assert result.returncode == 0, result.stderr
    return result


def bad(result: tuple[int, str, str], code: int, message: str) -> None:
    """The call failed with `code` and one line that starts with `message`."""
    errors = [line for line in result[2].splitlines() if line.startswith("error: ")]
    assert result[:2] == (code, ""), result[2]
    assert len(errors) == 1, result[2]
    assert errors[0].startswith(f"error: {message}"), errors[0]
    assert "Traceback" not in result[2]


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def chain(tmp_path_factory, counts):
    """Every stage by file, each on the file before it."""
    folder = tmp_path_factory.mktemp("chain")
    done(
        f"scale prepare --min-peaks 50 {counts} -o prepared.h5ad"
        " && scale select-peaks prepared.h5ad --n-peaks 500 -o selected.h5ad"
        f" && scale train selected.h5ad {QUICK} --model model.pt -o trained.h5ad"
        " && scale cluster -k 3 trained.h5ad -o clustered.h5ad"
        " && scale embed clustered.h5ad -o embedded.h5ad"
        " && scale impute --numeric --binary embedded.h5ad -o imputed.h5ad",
        folder,
    )
    return folder


def test_stages_by_file_write_their_slots(chain):
    cells = anndata.read_h5ad(chain / "imputed.h5ad")
    assert cells.shape == (anndata.read_h5ad(chain / "prepared.h5ad").n_obs, 500)
    for slot in (keys.N_PEAKS, keys.PEAK_SCORE, keys.LATENT, keys.IMPUTED, keys.BINARY, keys.CLUSTER, keys.UMAP):
        assert slot.found_in(cells), slot
    assert cells.obs["scale_cluster"].nunique() == 3
    assert cells.X.nnz == anndata.read_h5ad(chain / "selected.h5ad").X.nnz
    stages = [receipt["stage"] for receipt in scale_toolkit.receipts(cells)]
    assert stages == ["prepare", "select-peaks", "train", "cluster", "embed", "impute"]


def test_stages_on_a_pipe_give_what_they_give_by_file(chain, counts, tmp_path):
    result = good(
        f"cat {counts} | scale prepare --min-peaks 50 | scale select-peaks - --n-peaks 500 | scale train {QUICK}"
        " | scale cluster -k 3 | scale embed -o a.h5ad",
        tmp_path,
    )
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "Warning" not in result.stderr
    piped, filed = anndata.read_h5ad(tmp_path / "a.h5ad"), anndata.read_h5ad(chain / "embedded.h5ad")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5ad"]
    for name in filed.obsm:
        np.testing.assert_array_equal(piped.obsm[name], filed.obsm[name], err_msg=name)
    assert piped.obs["scale_cluster"].tolist() == filed.obs["scale_cluster"].tolist()
    assert piped.uns["scale"] == filed.uns["scale"]


def test_impute_validates_and_writes_what_is_trusted(chain, tmp_path):
    words = f"scale impute --validate {chain}/imputed.h5ad --n-threads 1"
    said = done(f"{words} --validate-dir proof/deep -o proved.h5ad", tmp_path)
    for part in (
        "AUPRC",
        "peak frequency",
        "near cells",
        "TF-IDF+SVD",
        "slope",
        "meta-cell",
        "trained without them",
        "between cells, AUC of marker peaks by scale_cluster",
        "trusted",
    ):
        assert part in said
    names = ["recovery.pdf", "recovery_clusters.pdf", "reliability.pdf", "validation.json"]
    assert sorted(path.name for path in (tmp_path / "proof" / "deep").iterdir()) == names
    proved = anndata.read_h5ad(tmp_path / "proved.h5ad")
    report = json.loads((tmp_path / "proof" / "deep" / "validation.json").read_text())
    assert report == json.loads(keys.VALIDATION.get(proved))
    before = anndata.read_h5ad(chain / "imputed.h5ad")
    np.testing.assert_array_equal(proved.obsm["imputed"], before.obsm["imputed"])  # an older result stays
    assert (proved.X != before.X).nnz == 0

    said = done(f"{words} --model {chain}/model.pt --validate-share 0.3 --json-logs -o quick.h5ad", tmp_path)
    facts = next(line for line in map(json.loads, said.splitlines()) if line["message"] == "result")
    assert facts["way"].startswith("optimistic") and 0 <= facts["trusted"] <= 500

    proved.var["scale_trust"] = np.arange(500) % 5 == 0
    proved.write_h5ad(tmp_path / "some.h5ad")
    done("scale impute --only-trusted some.h5ad -o trusted.h5ad", tmp_path)
    assert anndata.read_h5ad(tmp_path / "trusted.h5ad").obsm["imputed"].shape[1] == 100


def test_a_stage_again_on_the_file_before_it_gives_the_same_cells(chain, tmp_path):
    done(f"scale train {chain}/selected.h5ad {QUICK} --model model.pt -o again.h5ad", tmp_path)
    again, first = anndata.read_h5ad(tmp_path / "again.h5ad"), anndata.read_h5ad(chain / "trained.h5ad")
    np.testing.assert_array_equal(again.obsm["X_scale"], first.obsm["X_scale"])
    assert again.uns["scale"] == first.uns["scale"]
    assert (tmp_path / "model.pt").read_bytes() == (chain / "model.pt").read_bytes()


def test_training_again_drops_what_an_older_model_imputed(chain, tmp_path):
    done(f"scale impute --to layers --binary {chain}/imputed.h5ad -o both.h5ad", tmp_path)
    assert "binary" in anndata.read_h5ad(tmp_path / "both.h5ad").layers
    done(f"scale train both.h5ad {QUICK} --seed 3 -o again.h5ad", tmp_path)
    again = anndata.read_h5ad(tmp_path / "again.h5ad")
    assert not {"imputed", "binary"} & {*again.obsm, *again.layers}


def test_pretrain_encodes_with_the_model_and_trains_nothing(chain, tmp_path):
    done(f"scale train --pretrain {chain}/model.pt {chain}/selected.h5ad -o encoded.h5ad", tmp_path)
    encoded, first = anndata.read_h5ad(tmp_path / "encoded.h5ad"), anndata.read_h5ad(chain / "trained.h5ad")
    np.testing.assert_allclose(encoded.obsm["X_scale"], first.obsm["X_scale"], rtol=1e-4, atol=1e-5)
    assert "scale_history" not in encoded.uns


def test_a_zarr_store_goes_through_the_stages_as_an_h5ad_does(chain, tmp_path):
    done(
        f"scale cluster -k 3 {chain}/trained.h5ad -o a.zarr && scale cluster -k 3 a.zarr --method kmeans -o b.zarr"
        " && scale prepare b.zarr --min-peaks 0 --min-cells 0 -o c.h5ad",
        tmp_path,
    )
    cells, before = anndata.read_h5ad(tmp_path / "c.h5ad"), anndata.read_h5ad(chain / "trained.h5ad")
    assert cells.obs["kmeans"].nunique() == cells.obs["leiden"].nunique() == 3
    assert (cells.X != before.X).nnz == 0
    bad(call("scale cluster -k 3 a.zarr -o a.zarr", tmp_path), 2, "a.zarr is also the input")
    bad(call("scale prepare c.h5ad --modality atac -o d.h5ad", tmp_path), 2, "--modality atac, and c.h5ad has no modalities")


def test_an_h5mu_enters_by_its_modality(counts, tmp_path):
    mudata = pytest.importorskip("mudata")
    cells = anndata.read_h5ad(counts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mudata on its own future
        mudata.MuData({"one": cells, "two": cells[:, :5].copy()}).write(tmp_path / "a.h5mu")
    bad(call("scale prepare a.h5mu -o b.h5ad", tmp_path), 1, "a.h5mu has the modalities one, two, and none may be ATAC")
    done("scale prepare a.h5mu --modality one --min-peaks 0 --min-cells 0 -o b.h5ad", tmp_path)
    assert anndata.read_h5ad(tmp_path / "b.h5ad").shape == cells.shape


def test_pretrain_takes_the_model_of_scale_1_1_2(chain, tmp_path):
    import torch

    cells = anndata.read_h5ad(chain / "selected.h5ad")
    rng = np.random.default_rng(0)
    shapes = {
        "pi": (2,), "mu_c": (3, 2), "var_c": (3, 2), "encoder.hidden.0.weight": (8, 500), "encoder.hidden.0.bias": (8,),
        "encoder.sample.mu.weight": (3, 8), "encoder.sample.mu.bias": (3,), "encoder.sample.log_var.weight": (3, 8),
        "encoder.sample.log_var.bias": (3,), "decoder.reconstruction.weight": (500, 3), "decoder.reconstruction.bias": (500,),
    }  # fmt: skip
    weights = {name: torch.from_numpy(rng.uniform(0.1, 0.9, shape).astype("f4")) for name, shape in shapes.items()}
    (tmp_path / "out").mkdir()
    torch.save(weights, tmp_path / "out" / "model.pt")
    w = {name: value.numpy() for name, value in weights.items()}
    hidden = np.maximum((cells.X.toarray() > 0) @ w["encoder.hidden.0.weight"].T + w["encoder.hidden.0.bias"], 0)
    expected = hidden @ w["encoder.sample.mu.weight"].T + w["encoder.sample.mu.bias"]
    words = f"scale train {chain}/selected.h5ad --pretrain out/model.pt -o encoded.h5ad"
    bad(call(words, tmp_path), 1, "the model file is SCALE 1.1.2's, which does not name its 500 peaks")
    (tmp_path / "names.txt").write_text("\n".join(cells.var_names) + "\n")
    anndata.AnnData(var=cells.var).write_h5ad(tmp_path / "elsewhere.h5ad")
    for peaks in ("names.txt", "elsewhere.h5ad"):
        done(f"{words} --pretrain-peaks {peaks}", tmp_path)
        encoded = anndata.read_h5ad(tmp_path / "encoded.h5ad")
        np.testing.assert_allclose(encoded.obsm["X_scale"], expected, rtol=1e-4)
    shutil.move(tmp_path / "elsewhere.h5ad", tmp_path / "out" / "adata.h5ad")  # where the release leaves it
    done(
        f"scale run {chain}/selected.h5ad --pretrain out/model.pt -o mine --min-peaks 0 -k 2 --cluster-method kmeans", tmp_path
    )
    encoded = anndata.read_h5ad(tmp_path / "mine" / "adata.h5ad")
    np.testing.assert_allclose(encoded.obsm["X_scale"], expected, rtol=1e-4)


def test_run_makes_scale_pys_folder(counts, tmp_path):
    said = done(
        f"SCALE.py -d {counts} -k 2 --min_peaks 50 --min_cells 3 --max_iter 20 --encode_dim 32 16 --latent 5 --embed tSNE"
        " --cluster_method kmeans --impute --binary -o out/deep",
        tmp_path,
    )
    out = tmp_path / "out" / "deep"
    assert sorted(path.name for path in out.iterdir()) == ["adata.h5ad", "model.pt", "report.html", "tsne.pdf"]
    assert said.splitlines()[-1] == "next: scale plot heatmap out/deep/adata.h5ad -o out/deep/heatmap.pdf"
    cells = anndata.read_h5ad(out / "adata.h5ad")
    assert cells.obsm["X_scale"].shape == (cells.n_obs, 5)
    assert cells.obs["kmeans"].nunique() == 2
    assert cells.obsm["imputed"].shape == cells.obsm["binary"].shape == cells.shape
    assert set(np.unique(cells.obsm["binary"].data)) <= {0, 1}
    assert (out / "tsne.pdf").read_bytes().startswith(b"%PDF")
    for part in (f"{cells.n_obs} × {cells.n_vars:,}", "clusters", "ARI", "NMI", "'cell_type'", "out/deep/adata.h5ad"):
        assert part in said


def test_run_counts_fragments_and_names_the_genes_of_marker_peaks(data_path, tmp_path):
    blood = anndata.read_h5ad(data_path("tiny_blood.h5ad"))
    regions = [name.replace(":", "-").split("-") for name in blood.var_names]
    (tmp_path / "peaks.bed").write_text("".join(f"{chrom}\t{start}\t{end}\n" for chrom, start, end in regions))
    (tmp_path / "black.bed").write_text("chr11\t0\t200000000\n")
    row = 'chr{0}\tx\tgene\t1000000\t1100000\t.\t+\t.\tgene_id "G{0}"; gene_name "GENE{0}";\n'
    (tmp_path / "genes.gtf").write_text("".join(row.format(number) for number in range(1, 23)))
    said = done(
        f"scale run --fragments {data_path('tiny_blood.fragments.tsv.gz')} --peaks peaks.bed --blacklist black.bed "
        "--gtf genes.gtf --min-peaks 20 --min-cells 2 --max-epochs 3 -o out",
        tmp_path,
    )
    cells = anndata.read_h5ad(tmp_path / "out" / "adata.h5ad")
    assert not cells.var_names.str.startswith("chr11").any()
    assert cells.var["nearest_gene"].str.startswith("GENE").any()
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "scale_markers" in cells.uns
    assert said.splitlines()[-1] == "next: scale impute out/adata.h5ad --validate -o out/imputed.h5ad"


def test_run_on_two_cells_is_refused_before_any_work(tmp_path):
    names = [f"chr1:{1000 * number}-{1000 * number + 500}" for number in range(20)]
    cells = anndata.AnnData(sparse.csr_matrix(np.eye(2, 20, dtype=np.float32) + np.eye(2, 20, 1, dtype=np.float32)))
    cells.var_names = names
    cells.write_h5ad(tmp_path / "two.h5ad")
    result = call("scale run two.h5ad --min-peaks 1 --min-cells 1 --max-epochs 2 -o out", tmp_path)
    bad(result, 1, "2 cells; expected at least 3 for two dimensions")
    assert not (tmp_path / "out").exists()


def test_run_and_the_stages_agree(chain, counts, tmp_path):
    done(f"scale run {counts} --min-peaks 50 --n-feature 500 {QUICK} -o out --verbose", tmp_path)
    cells = anndata.read_h5ad(tmp_path / "out" / "adata.h5ad")
    np.testing.assert_array_equal(cells.obsm["X_scale"], anndata.read_h5ad(chain / "trained.h5ad").obsm["X_scale"])
    assert (tmp_path / "out" / "model.pt").read_bytes() == (chain / "model.pt").read_bytes()


def test_cluster_reports_agreement_as_text_and_as_json(chain, tmp_path):
    words = f"scale cluster -k 2 --method kmeans --reference cell_type {chain}/trained.h5ad -o a.h5ad"
    text = done(words, tmp_path)
    assert "ARI" in text
    assert "BJ" in text
    lines = [json.loads(line) for line in done(f"{words} --json-logs", tmp_path).splitlines()]
    facts = next(line for line in lines if line["message"] == "result")
    figures = anndata.read_h5ad(tmp_path / "a.h5ad").uns["scale_cluster_report"]
    assert facts["ari"] == pytest.approx(figures["ari"])
    assert facts["confusion"] == figures["confusion"].tolist()
    assert f"ARI {figures['ari']:.3f}" in text


def test_embed_draws_by_cluster_and_known_labels_where_there_are(chain, tmp_path, monkeypatch):
    drawn = []
    real = scale_toolkit.plot.embedding
    monkeypatch.setattr(scale_toolkit.plot, "embedding", lambda *a, **how: (drawn.append(how["color"]), real(*a, **how)))
    chain_to = f"{chain / 'trained.h5ad'} --method tsne -o a.h5ad --figure plain.pdf"
    done(f"scale embed {chain_to}", tmp_path)
    done(f"scale cluster -k 2 --method kmeans --reference cell_type {chain / 'trained.h5ad'} -o c.h5ad", tmp_path)
    done("scale embed c.h5ad --method tsne -o d.h5ad --figure labels.pdf", tmp_path)
    assert drawn == [[None], ["scale_cluster", "cell_type"]]
    assert all((tmp_path / name).read_bytes().startswith(b"%PDF") for name in ("plain.pdf", "labels.pdf"))
    bad(call(f"scale embed {chain / 'trained.h5ad'} -o x.h5ad --figure x.h5ad", tmp_path), 2, "--figure x.h5ad is also the")
    bad(
        call(f"scale embed {chain / 'trained.h5ad'} -o x.h5ad --figure x.txt", tmp_path),
        2,
        "--figure is x.txt; expected a name that ends in .pdf",
    )
    assert not (tmp_path / "x.h5ad").exists()


def test_prepare_of_two_inputs_names_their_batches(counts, tmp_path):
    shutil.copy(counts, tmp_path / "one.h5ad")
    shutil.copy(counts, tmp_path / "two.h5ad")
    done("scale prepare one.h5ad two.h5ad -o a.h5ad && scale prepare one.h5ad two.h5ad --batch-names x,y -o b.h5ad", tmp_path)
    assert set(anndata.read_h5ad(tmp_path / "a.h5ad").obs["batch"]) == {"one", "two"}
    assert set(anndata.read_h5ad(tmp_path / "b.h5ad").obs["batch"]) == {"x", "y"}


def test_prepare_counts_fragments_over_peaks(data_path, tmp_path):
    fragments, blood = data_path("tiny_blood.fragments.tsv.gz"), anndata.read_h5ad(data_path("tiny_blood.h5ad"))
    rows = blood.var_names.str.extract(r"^(?P<chrom>.+?)[:_-](?P<start>\d+)[_-](?P<end>\d+)$").astype(
        {"start": int, "end": int}
    )
    rows["start"] -= 1
    rows.to_csv(tmp_path / "peaks.bed", sep="\t", header=False, index=False)
    words = f"scale prepare --fragments {fragments} --peaks peaks.bed --min-peaks 1 --min-cells 1"
    done(f"{words} --cap 4 -o capped.h5ad && {words} --count fragments -o overlaps.h5ad", tmp_path)
    capped, overlaps = (anndata.read_h5ad(tmp_path / name) for name in ("capped.h5ad", "overlaps.h5ad"))
    shared = blood.obs_names.intersection(capped.obs_names)
    assert len(shared) == blood.n_obs
    assert capped[shared].X.sum() == blood.X.sum()
    assert overlaps.X.sum() != capped.X.sum()


def test_blacklist_drops_peaks(data_path, tmp_path):
    blood = data_path("tiny_blood.h5ad")
    (tmp_path / "black.bed").write_text("chr11\t0\t400000000\n")
    done(f"scale prepare {blood} --blacklist black.bed --min-cells 1 -o a.h5ad", tmp_path)
    assert not anndata.read_h5ad(tmp_path / "a.h5ad").var_names.str.startswith("chr11").any()


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (
            "scale cluster {chain}/selected.h5ad -o x.h5ad",
            1,
            "obsm['X_scale'] is missing; expected the output of `scale train`",
        ),
        ("scale embed none.h5ad -o x.h5ad", 1, "none.h5ad does not exist"),
        ("scale cluster {chain}/trained.h5ad --reference foo -o x.h5ad", 1, "obs has no column 'foo'"),
        ("scale train mine.h5ad -o mine.h5ad", 2, "mine.h5ad is also the input"),
        ("scale train mine.h5ad -o x.h5ad --model x.h5ad", 2, "--model x.h5ad is also the input or output"),
        ("scale train mine.h5ad -o x.h5ad --model none/m.pt", 2, "the output folder none does not exist"),
        ("scale train mine.h5ad -o x.h5ad --pretrain none.pt", 1, "none.pt does not exist"),
        ("scale train mine.h5ad -o x.h5ad --pretrain words.txt", 1, ""),
        ("scale train mine.h5ad -o x.h5ad --pretrain a --model b", 2, "both --model and --pretrain"),
        ("scale train mine.h5ad -o x.h5ad --pretrain-peaks words.txt", 2, "--pretrain-peaks without --pretrain"),
        ("scale train mine.h5ad -o x.h5ad --pretrain words.txt --pretrain-peaks no.h5ad", 1, "no.h5ad does not exist"),
        ("scale train mine.h5ad -o none/x.h5ad", 2, "the output folder none does not exist"),
        ("scale impute {chain}/trained.h5ad --model none.pt -o x.h5ad", 2, "--model without --validate"),
        ("scale impute {chain}/trained.h5ad --validate-dir out -o x.h5ad", 2, "--validate-dir without --validate"),
        ("scale impute {chain}/trained.h5ad --validate --model none.pt -o x.h5ad", 1, "none.pt does not exist"),
        ("scale impute {chain}/trained.h5ad --validate --validate-dir words.txt -o x.h5ad", 2, "--validate-dir words.txt"),
        ("scale impute {chain}/trained.h5ad --validate --validate-share 0.9 -o x.h5ad", 2, "--validate-share is 0.9"),
        ("scale impute {chain}/trained.h5ad --only-trusted -o x.h5ad", 1, "var['scale_trust'] is missing"),
        ("scale prepare mine.h5ad mine.h5ad -o x.h5ad", 2, "two inputs are named 'mine'"),
        ("scale prepare --fragments words.txt -o x.h5ad", 2, "--fragments alone"),
        ("scale prepare mine.h5ad --min-peaks 100000 -o x.h5ad", 1, ""),
        ("scale run -d none.h5ad -o out", 1, "none.h5ad does not exist"),
        ("scale run -d mine.h5ad -o out --reference foo --min-peaks 50", 1, "obs has no column 'foo'"),
        ("scale nonsense", 2, "No such command 'nonsense'"),
    ],
)
def test_errors(chain, tmp_path, command, code, message):
    shutil.copy(chain / "prepared.h5ad", tmp_path / "mine.h5ad")
    (tmp_path / "words.txt").write_text("no h5ad\n")
    before = content(tmp_path)
    bad(call(command.format(chain=chain), tmp_path), code, message)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [("< /dev/null", "standard input is empty (0 bytes)"), ("< words.txt", "standard input is not an HDF5 file")],
)
def test_standard_input_that_is_no_h5ad(tmp_path, words, message):
    (tmp_path / "words.txt").write_text("no h5ad\n")
    before = content(tmp_path)
    result = sh(f"scale cluster -o x.h5ad {words}", tmp_path)
    bad((result.returncode, result.stdout, result.stderr), 1, message)
    assert content(tmp_path) == before


def test_imputed_values_of_other_peaks_are_not_handed_on(chain, tmp_path):
    done(
        f"scale select-peaks --n-peaks 100 {chain}/imputed.h5ad -o fewer.h5ad && scale impute --binary fewer.h5ad -o x.h5ad",
        tmp_path,
    )
    cells = anndata.read_h5ad(tmp_path / "x.h5ad")
    assert keys.BINARY.get(cells).shape[1] == len(keys.IMPUTED_PEAKS.get(cells)) == 100
    assert not keys.IMPUTED.found_in(cells)  # of 500 peaks


@pytest.mark.parametrize("words", ["train {}/selected.h5ad -o x.h5ad", "run {}/prepared.h5ad -o out"])
def test_gpu_where_there_is_none_is_an_error_at_once(chain, tmp_path, words):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    command, rest = words.format(chain).split(" ", 1)
    code, out, err = call(f"scale {command} --gpu {rest}", tmp_path)
    assert (code, out, list(tmp_path.iterdir())) == (1, "", [])
    assert "--device auto" in err
    assert len(err.splitlines()) == 1


def test_an_error_early_in_a_pipe_ends_the_next_stage(tmp_path):
    result = sh("scale prepare none.h5ad | scale train -o x.h5ad", tmp_path)
    assert result.returncode == 1
    assert "error: none.h5ad does not exist" in result.stderr
    assert "standard input is empty" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_ends_the_writer_quietly(chain, tmp_path):
    result = good(f"scale select-peaks --quiet < {chain}/prepared.h5ad | head -c 8 | wc -c", tmp_path)
    assert (result.stdout.strip(), result.stderr) == ("8", "")


def test_a_full_disk_is_one_line(chain, tmp_path):
    result = sh(f"(ulimit -f 20; scale select-peaks {chain}/prepared.h5ad -o x.h5ad) 2>&1 | cat", tmp_path)
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1].startswith("error: x.h5ad cannot be written (File too large)")
    assert "Traceback" not in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_gets_no_h5ad(chain, tmp_path):
    """Standard output is a terminal: refused before the input is read, with what to do."""
    pty = pytest.importorskip("pty")
    main, worker = pty.openpty()
    process = subprocess.Popen([SCALE, "embed", chain / "none.h5ad"], stdout=worker, stderr=subprocess.PIPE, text=True)
    _, error = process.communicate()
    os.close(worker)
    os.close(main)
    assert process.returncode == 2
    assert error.startswith("error: standard output is a terminal")
    assert "-o FILE" in error


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGINT, 130, "error: interrupted\n"), (signal.SIGTERM, 143, "")])
def test_a_signal_leaves_nothing_behind(tmp_path, number, code, said):
    """A stage that waits for its input on a pipe, its spool already open."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    words = [SCALE, "embed", "-o", tmp_path / "x.h5ad"]
    # a job in the background of a script has SIGINT ignored, and hands that on
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": lambda: signal.signal(number, signal.SIG_DFL)}
    with subprocess.Popen(words, env=environment, **pipes) as process:
        process.stdin.write(b"x" * 100)
        process.stdin.flush()
        while int.from_bytes(fcntl.ioctl(process.stdin, termios.FIONREAD, b"\0" * 4), sys.byteorder):  # until it is read
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        error = process.stderr.read().decode()
    assert (process.returncode, error) == (code, said)
    assert list(tmp_path.iterdir()) == []


def test_simulate_streams_what_simulate_makes(tmp_path):
    good("scale simulate --n-cells 50 --n-peaks 300 -k 2 --open-peaks 40 | cat > a.h5ad", tmp_path)
    made = scale_toolkit.simulate(n_cells=50, n_peaks=300, n_clusters=2, open_peaks=40)
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert (read.X != made.X).nnz == 0
    assert read.obs["cell_type"].astype(str).tolist() == made.obs["cell_type"].astype(str).tolist()


def test_python_dash_m_and_the_version(tmp_path):
    result = good(f"{sys.executable} -m scale_toolkit --version; scale --version; SCALE.py --help", tmp_path)
    assert result.stdout.splitlines()[:2] == [f"scale {scale_toolkit.__version__}"] * 2
    assert "--data-list" in result.stdout


def test_a_part_of_the_imputed_values_and_means_of_groups(chain, tmp_path):
    from_file = anndata.read_h5ad(chain / "imputed.h5ad")
    peaks = list(from_file.var_names[[3, 8]])
    cluster = from_file.obs["scale_cluster"].cat.categories[0]
    (tmp_path / "peaks.txt").write_text("\n".join(peaks))
    (tmp_path / "sizes").write_text("".join(f"{chrom}\t999999999\n" for chrom in from_file.var["chrom"].unique()))
    good(
        f"scale impute {chain}/imputed.h5ad --peaks peaks.txt --cells 'scale_cluster == \"{cluster}\"' --numeric"
        " --per-group cell_type --group-dir groups --chrom-sizes sizes --assembly hg19 -o part.h5ad",
        tmp_path,
    )
    part = anndata.read_h5ad(tmp_path / "part.h5ad")
    kept = from_file[from_file.obs["scale_cluster"] == cluster]
    assert list(part.obs_names) == list(kept.obs_names) and list(keys.IMPUTED_PEAKS.get(part)) == peaks
    np.testing.assert_array_equal(keys.IMPUTED.get(part), keys.IMPUTED.get(kept)[:, [3, 8]])
    assert (part.X != kept.X).nnz == 0 and not keys.BINARY.found_in(part)
    means = keys.GROUP_MEANS.get(part).dropna()
    assert sorted(path.name for path in (tmp_path / "groups").iterdir()) == sorted(
        ["cell_type.tsv", "hub.txt", "cell_type.igv.xml", *(f"cell_type.{name.replace(' ', '_').replace('/', '_')}.bw" for name in means)]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--group-dir g", "--group-dir without --per-group"),
        ("--per-group cell_type --chrom-sizes sizes", "--chrom-sizes without --group-dir"),
        ("--to layers --peaks chr1", "--to is 'layers' and only some peaks are requested"),
    ],
)
def test_options_of_a_part_that_do_not_go_together(chain, tmp_path, words, message):
    code, out, err = call(f"scale impute {chain}/imputed.h5ad {words} -o x.h5ad", tmp_path)
    bad((code, out, err), 2, message)
    assert content(tmp_path) == {}


def test_train_goes_on_from_its_checkpoint_after_a_kill(chain, tmp_path):
    command = [SCALE, "train", chain / "selected.h5ad", "--checkpoint", "c", "--every", "0", "--n-threads", "1", "--quiet"]
    killed = subprocess.Popen([*command, "-o", "out.h5ad"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "c" / "epoch-000002.json").exists():
            assert killed.poll() is None and time.monotonic() < until
            time.sleep(0.01)
    finally:
        killed.kill()
        killed.wait()
    assert not (tmp_path / "out.h5ad").exists()
    good(f"scale train {chain}/selected.h5ad --checkpoint c --n-threads 1 -o out.h5ad", tmp_path)
    good(f"scale train {chain}/selected.h5ad --n-threads 1 -o whole.h5ad", tmp_path)
    resumed, whole = (anndata.read_h5ad(tmp_path / name) for name in ("out.h5ad", "whole.h5ad"))
    for slot in (keys.LATENT, keys.DECODER, keys.POSTERIOR):
        np.testing.assert_array_equal(slot.get(resumed), slot.get(whole))
    assert scale_toolkit.receipts(resumed) == scale_toolkit.receipts(whole)


def test_verify_says_whether_a_result_is_reproduced(chain, tmp_path):
    cells = anndata.read_h5ad(chain / "clustered.h5ad")
    cells.obsm["X_scale"][0, 0] += 1
    cells.write_h5ad(tmp_path / "changed.h5ad")
    assert "reproduced bit for bit: train, cluster\n" in done(f"scale verify {chain / 'clustered.h5ad'}", tmp_path)
    bad(call("scale verify changed.h5ad", tmp_path), 1, "not reproduced: 1 of ")
    cells = anndata.read_h5ad(chain / "clustered.h5ad")
    cells.uns["scale"] = cells.uns["scale"].replace(f'"revision": {FAST_REVISION}', '"revision": 1')
    cells.write_h5ad(tmp_path / "older.h5ad")
    bad(call("scale verify older.h5ad", tmp_path), 1, "train cannot be reproduced: version 0.1.0")
    _, _, said = call(f"scale verify --json-logs {chain / 'clustered.h5ad'}", tmp_path)
    facts = next(fact for fact in map(json.loads, said.splitlines()) if "slots" in fact)
    assert facts["reproduced"] is True
    assert facts["slots"]["obsm['X_scale']"]["verdict"] == "identical"


@pytest.mark.parametrize("to", ["mtx", "10x", "cellxgene", "h5mu"])
def test_export_is_read_back(chain, tmp_path, to):
    place = "out" if to == "mtx" else "out.h5"
    said = done(f"scale export {chain}/imputed.h5ad --to {to} -o {place}", tmp_path)
    assert ("add to obs: assay_ontology_term_id, " in said) == (to == "cellxgene")
    done(f"scale prepare {place} --min-peaks 0 --min-cells 0 -o again.h5ad", tmp_path)
    cells, again = anndata.read_h5ad(chain / "imputed.h5ad"), anndata.read_h5ad(tmp_path / "again.h5ad")
    assert list(again.obs_names) == list(cells.obs_names)
    assert (again.X != cells.X).nnz == 0
    assert ("imputed" in again.obsm) == (to == "h5mu")
    bad(call(f"scale export {chain}/trained.h5ad --to {to}", tmp_path), 2, "Missing option")
    shutil.copy(chain / "embedded.h5ad", tmp_path / "mine.h5ad")
    if to != "mtx":
        bad(call(f"scale export mine.h5ad --to {to} -o mine.h5ad", tmp_path), 2, "mine.h5ad is also the input")
