"""Every option of ``scale run`` reaches the config of the stage it is meant for, under SCALE.py's name."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import typer

from scale_toolkit.cli.app import app, main
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import (
    ClusterConfig,
    EmbedConfig,
    ImputeConfig,
    MarkersConfig,
    PrepareConfig,
    SelectPeaksConfig,
    TrainConfig,
)
from scale_toolkit.errors import InputError, ScaleError

analysis = importlib.import_module("scale_toolkit.cli.analysis")
run_module = importlib.import_module("scale_toolkit.cli.run")

#: option: (words, what they change in the plan). Both spellings of SCALE.py's names are tried for every case.
CASES = {
    "--n-centroids": ("-k 6", {"train.n_components": 6, "cluster.n_clusters": 6}),
    "--outdir": ("-o other", {"folder": Path("other")}),
    "--max-iter": ("--max_iter 7", {"train.max_iter": 7}),
    "--max-epochs": ("--max_epochs 7", {"train.max_epochs": 7}),
    "--lr": ("--lr 0.1", {"train.lr": 0.1}),
    "--seed": ("--seed 3", {f"{stage}.seed": 3 for stage in ("train", "embed", "cluster", "markers")}),
    "--n-threads": (
        "--n_threads 2",
        {f"{stage}.n_threads": 2 for stage in ("train", "embed", "cluster", "markers")},
    ),
    "--batch-size": ("--batch_size 16", {"train.batch_size": 16}),
    "--gpu": ("--gpu 1", {"train.device": "cuda:1"}),
    "--device": ("--device cpu", {"train.device": "cpu"}),
    "--preset": ("--preset release", {"train.preset": "release", "prepare.min_cells": 3}),
    "--encode-dim": ("--encode_dim 1024 128", {"train.encode_dim": (1024, 128)}),
    "--decode-dim": ("--decode_dim 64", {"train.decode_dim": (64,)}),
    "--latent": ("--latent 5", {"train.latent": 5}),
    "--min-peaks": ("--min_peaks 50", {"prepare.min_peaks": 50}),
    "--min-cells": ("--min_cells 0.1", {"prepare.min_cells": 0.1}),
    "--layer": ("--layer counts", {"prepare.layer": "counts"}),
    "--join": ("--join outer", {"prepare.join": "outer"}),
    "--drop-chromosomes": ("--drop_chromosomes chrM,chrX", {"prepare.drop_chromosomes": ("chrM", "chrX")}),
    "--n-feature": ("--n_feature 99", {"select.n_peaks": 99}),
    "--log-transform": ("--log_transform", {"train.log_transform": True}),
    "--patience": ("--patience 4", {"train.patience": 4}),
    "--weight-decay": ("--weight_decay 0.5", {"train.weight_decay": 0.5}),
    "--precision": ("--precision auto", {"train.precision": "auto"}),
    "--deterministic": ("--deterministic", {"train.deterministic": True}),
    "--gpu-memory": ("--gpu_memory 3", {"train.gpu_memory": 3.0}),
    "--batch-key": ("--batch_key sample", {"train.batch_key": "sample"}),
    "--covariates": (
        "--batch_key sample --covariates run,site",
        {"train.batch_key": "sample", "train.covariates": ("run", "site")},
    ),
    "--covariate": (
        "--batch_key sample --covariate run",
        {"train.batch_key": "sample", "train.covariates": ("run",)},
    ),
    "--all-peaks": ("--all_peaks", {"train.all_peaks": True}),
    "--impute": ("--impute", {"impute": ImputeConfig(numeric=True)}),
    "--binary": ("--binary", {"impute": ImputeConfig(binary=True)}),
    "--embed": ("--embed tSNE", {"embed.method": "tsne"}),
    "--reference": ("--reference sort_gate", {"cluster.reference": "sort_gate"}),
    "--cluster-method": ("--cluster_method gmm", {"cluster.method": "gmm"}),
    "--resolution": ("--resolution 0.5", {"cluster.resolution": 0.5}),
    "--stability": ("--stability 9", {"cluster.stability": 9}),
    "--blacklist": ("--blacklist {model}", {"blacklist": "{model}"}),
    "--pretrain": ("--pretrain {model}", {"pretrain": "{model}", "prepare.min_cells": 0}),
    "--pretrain-peaks": (
        "--pretrain {model} --pretrain_peaks {model}",
        {"pretrain": "{model}", "pretrain_peaks": "{model}", "prepare.min_cells": 0},
    ),
}
#: Options that shape no plan; each has a test of its own.
OTHERS = {
    "--data-list", "--modality", "--fragments", "--peaks", "--count", "--cap", "--barcodes", "--metadata", "--gtf",
    "--verbose", "--dry-run", "--memory", "--quiet", "--json-logs", "--debug",
}  # fmt: skip


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """Return ``planned(words)``: sources, plan and talk of a call of ``scale run``, without any work."""
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(run_module, "analyse", lambda cells, plan, talk: seen.append((cells, plan, talk)))
    monkeypatch.setattr(run_module, "read_inputs", lambda sources, names, modality, barcodes: list(sources))

    def call(words):
        with pytest.raises(SystemExit) as end:
            main(["run", *words])
        assert end.value.code == 0
        return seen.pop()

    return call


def flat(plan) -> dict:
    values = {}
    for name, value in vars(plan).items():
        inside = value.as_dict() if dataclasses.is_dataclass(value) and name != "impute" else None
        values |= {f"{name}.{field}": getattr(value, field) for field in inside} if inside else {name: value}
    return values


@pytest.mark.parametrize("option", CASES)
@pytest.mark.parametrize("spelling", ["_", "-"])
def test_option_reaches_its_stage(planned, tmp_path, option, spelling):
    model = tmp_path / "model.pt"
    model.write_bytes(b"weights")
    words, changes = CASES[option]
    words = [(word.replace("_", spelling) if word.startswith("--") else word).format(model=model) for word in words.split()]
    changes = {name: model if value == "{model}" else value for name, value in changes.items()}
    plain = flat(planned(["-d", "cells.h5ad"])[1])
    now = flat(planned(["-d", "cells.h5ad", *words])[1])
    assert {name: value for name, value in now.items() if value != plain[name]} == changes


def test_barcodes_metadata_and_genes_are_read_once_and_reach_their_stages(planned, tmp_path, monkeypatch):
    (tmp_path / "cells.tsv").write_text("AACA-1\nAACC-1\n")
    (tmp_path / "table.csv").write_text("barcode,sort\nAACA-1,B\nAACC-1,T\n")
    (tmp_path / "genes.gtf").write_text('chr1\t.\tgene\t101\t400\t.\t+\t.\tgene_id "G"\n')
    (tmp_path / "f.tsv").write_text("chr1\t1\t50\tAACA-1\t1\n")
    inputs = []
    monkeypatch.setattr(run_module, "read_inputs", lambda *given: inputs.append(given))
    words = "--barcodes cells.tsv --metadata table.csv --gtf genes.gtf"
    _, plan, _ = planned(["cells.h5ad", *words.split()])
    assert inputs == [(["cells.h5ad"], (), None, ["AACA-1", "AACC-1"])]
    assert plan.metadata["sort"].to_dict() == {"AACA-1": "B", "AACC-1": "T"}
    assert len(plan.genes) == 1
    monkeypatch.setattr(run_module, "read_fragments", lambda *given, **more: inputs.append((given, more)))
    _, plan, _ = planned(["--fragments", "f.tsv", "--peaks", "f.tsv", *words.split()])
    assert inputs[1][0][0] == ["f.tsv"]
    assert inputs[1][1]["barcodes"] == ["AACA-1", "AACC-1"]
    assert inputs[1][1]["genes"] is plan.genes


def test_threads_reach_the_imputation(planned):
    _, plan, _ = planned(["-d", "cells.h5ad", "--binary", "--n-threads", "2"])
    assert plan.impute == ImputeConfig(binary=True, n_threads=2)


def test_every_option_has_its_case():
    parameters = typer.main.get_command(app).commands["run"].params
    shown = {flag for p in parameters for flag in p.opts if flag.startswith("--") and p.name != "help"}
    assert shown == set(CASES) | OTHERS


def test_short_options_are_those_of_scale_py(planned):
    _, plan, _ = planned(["-d", "a.h5ad", "-k", "4", "-o", "out", "-i", "9", "-b", "8", "-g", "-l", "3"])
    assert plan.folder == Path("out")
    wanted = TrainConfig(n_components=4, max_iter=9, batch_size=8, device="cuda", latent=3)
    assert plan.train == wanted


def test_without_options_the_defaults_of_the_stages_hold(planned):
    _, plan, _ = planned(["-d", "a.h5ad"])
    assert plan == run_module.Plan(
        Path("output"), PrepareConfig(), SelectPeaksConfig(), TrainConfig(), EmbedConfig(), ClusterConfig()
    )


@pytest.mark.parametrize("words", ["-d a b", "--data_list a --data-list b", "a b", "-d a -- b", "-d a b --gpu"])
def test_inputs(planned, words):
    assert planned(words.split())[0] == ["a", "b"]


def test_verbose(planned):
    assert planned(["a", "--verbose"])[2].verbose
    assert not planned(["a"])[2].verbose


def test_min_cells_given_overrides_the_preset(planned):
    assert planned(["a", "--preset", "release", "--min_cells", "5"])[1].prepare.min_cells == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-k 6", "error: no input; expected -d INPUT, or --fragments FILE --peaks BED"),
        ("a --fragments file --peaks file", "error: --fragments and the input a; expected one of the two"),
        ("--fragments file", "error: --fragments alone; expected both --fragments FILE and --peaks BED"),
        ("--fragments file --peaks file --dry-run", "error: --dry-run with --fragments; expected counts"),
        ("file --barcodes file --dry-run", "error: --dry-run with --barcodes; expected counts of all cells"),
        ("a -k 0", "error: --n-centroids is 0; expected 1 or more"),
        ("a --n_feature 0", "error: --n-feature is 0; expected 1 or more"),
        ("a --embed pca", "error: --embed is 'pca'; expected one of umap, tsne"),
        ("a --cluster_method x", "error: --cluster-method is 'x'; expected one of leiden, kmeans, gmm"),
        ("a --gpu --device cpu", "error: both --gpu and --device cpu; expected one of the two"),
        ("a -o file/below", "error: --outdir file/below: file is a file; expected a folder"),
        ("a --nonsense", "error: No such option"),
        ("a --min_peaks many", "error: Invalid value for '--min-peaks'"),
    ],
)
def test_words_that_are_off(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit) as end:
        main(["run", *words.split()])
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


class Fakes:
    """Stages that only note their config, and one that can be made to fail."""

    def __init__(self, monkeypatch) -> None:
        self.calls, self.failing = [], {}
        self.cells = anndata.AnnData(
            np.ones((3, 3)),
            obs=pd.DataFrame(
                {"scale_cluster": pd.Categorical(["0", "1", "1"]), "celltype": ["a", "b", "b"]}, index=["c1", "c2", "c3"]
            ),
        )
        names = {
            "prepare": ["prepare"], "select_peaks": ["select_peaks"], "train": ["train"], "encode": ["encode"],
            "cluster": ["cluster"], "embed": ["embed"], "markers": ["markers"], "impute": ["streamed"],
        }  # fmt: skip
        real = {module: importlib.import_module(f"scale_toolkit.stages.{module}") for module in names}
        for module, functions in names.items():
            stub = SimpleNamespace(**{function: self.stage(function) for function in functions})
            for function in {"impute" if name == "streamed" else name for name in functions}:
                # the checks are the real ones
                vars(stub).setdefault(function, self.stage(function)).stage = getattr(real[module], function).stage
            monkeypatch.setitem(sys.modules, f"scale_toolkit.stages.{module}", stub)
        import scale_toolkit.io.h5ad
        import scale_toolkit.plot
        import scale_toolkit.report

        monkeypatch.setattr(scale_toolkit.plot, "embedding", lambda *_, **how: self.calls.append(("plot", how)))
        monkeypatch.setattr(
            scale_toolkit.io.h5ad, "write_h5ad", lambda _, path, streamed: self.calls.append(("write", (path, streamed)))
        )
        monkeypatch.setattr(scale_toolkit.report, "page", lambda _, **how: self.calls.append(("report", how)) or "page")
        monkeypatch.setattr(analysis, "results", lambda *given, **more: ((given[1:], more), {"next": "scale plot"}))
        self.said = []
        self.talk = Talk(quiet=True)
        self.talk.say = lambda level, message: self.said.append((level, message))
        self.talk.show = lambda table, facts: self.said.append(table)

    def stage(self, name):
        def run(adata, config, **_):
            self.calls.append((name, config))
            if name in self.failing:
                raise self.failing[name]
            adata = getattr(run, "result", adata)
            return (adata, {"obsm/imputed": "blocks"}) if name == "streamed" else adata

        return run


@pytest.fixture
def fakes(monkeypatch):
    return Fakes(monkeypatch)


@pytest.fixture
def plan(tmp_path):
    return analysis.Plan(
        folder=tmp_path / "out",
        prepare=PrepareConfig(min_peaks=np.float64(1)),
        select=SelectPeaksConfig(n_peaks=2),
        train=TrainConfig(latent=2),
        embed=EmbedConfig(method="tsne"),
        cluster=ClusterConfig(n_clusters=2),
        markers=MarkersConfig(seed=4),
        impute=ImputeConfig(binary=True),
    )


def test_analyse_hands_each_stage_its_config(fakes, plan, tmp_path):
    """Every config of the plan arrives, in order, and no other."""
    analysis.analyse(fakes.cells, plan, fakes.talk)
    out = tmp_path / "out"
    end = [
        ("cluster", dataclasses.replace(plan.cluster, reference="celltype")),
        ("embed", plan.embed),
        ("plot", {"basis": "X_tsne", "color": ["scale_cluster", "celltype"], "save": out / "tsne.pdf"}),
        ("markers", plan.markers),
        ("streamed", plan.impute),
        ("write", (out / "adata.h5ad", {"obsm/imputed": "blocks"})),
        ("report", {"name": "out", "label": "celltype"}),
    ]
    start = [("prepare", plan.prepare)]
    assert fakes.calls == [*start, ("select_peaks", plan.select), ("train", plan.train), *end]
    assert fakes.said == [((out, out / "tsne.pdf", out / "report.html", "celltype"), {"imputed": True})]
    assert (out / "report.html").read_text() == "page"

    fakes.calls.clear()
    model = tmp_path / "model.pt"
    model.write_bytes(b"weights")
    analysis.analyse(fakes.cells, dataclasses.replace(plan, pretrain=model), fakes.talk)
    assert fakes.calls == [*start, ("encode", plan.train), *end]


def test_labels_that_cluster_has_renamed_are_drawn_and_reported(fakes, plan):
    fakes.cells.uns["scale_cluster_report"] = {"reference": "celltype_original"}
    fakes.cells.obs["celltype_original"] = fakes.cells.obs["celltype"]
    analysis.analyse(fakes.cells, plan, fakes.talk)
    calls = dict(fakes.calls)
    assert calls["plot"]["color"] == ["scale_cluster", "celltype_original"]
    assert calls["report"]["label"] == "celltype_original"
    assert fakes.said[-1][0][3] == "celltype_original"


@pytest.mark.parametrize(
    ("failing", "absent"),
    [
        ("train", {"cluster", "embed", "plot", "markers", "streamed"}),
        ("cluster", {"markers"}),
        ("embed", {"plot"}),
        ("streamed", set()),
    ],
)
def test_what_was_made_is_written_before_a_failure_is_reported(fakes, plan, failing, absent):
    everything = {"prepare", "select_peaks", "train", "cluster", "embed", "plot", "markers", "streamed", "write", "report"}
    fakes.failing[failing] = InputError("2 cells", "3 or more")
    with pytest.raises(InputError, match="2 cells; expected 3 or more"):
        analysis.analyse(fakes.cells, plan, fakes.talk)
    assert {name for name, _ in fakes.calls} == everything - absent
    assert (plan.folder / "report.html").exists()


def test_clusters_that_cannot_be_compared_are_a_warning(fakes, plan):
    fakes.failing["markers"] = InputError("one cluster", "two")
    analysis.analyse(fakes.cells, plan, fakes.talk)
    assert ("warning", "marker peaks were not searched: one cluster; expected two") in fakes.said


def test_of_several_failures_the_first_is_raised_and_the_others_are_said(fakes, plan):
    fakes.failing |= {"cluster": InputError("no clusters"), "embed": ValueError("no picture")}
    with pytest.raises(InputError, match="no clusters"):
        analysis.analyse(fakes.cells, plan, fakes.talk)
    assert ("warning", "embed: no picture") in fakes.said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster": ClusterConfig(n_clusters=4)}, "4 clusters requested of 3 cells; expected at most as many clusters"),
        ({"cluster": ClusterConfig(reference="donor")}, "no column 'donor' to compare with; expected one of"),
        ({"train": TrainConfig(device="nonsense")}, "nonsense"),
        ({"markers": MarkersConfig(cluster_by="donor")}, "obs has no column 'donor'"),
        ({"impute": ImputeConfig(per_group="donor")}, ""),  # the column may come from a stage before
    ],
)
def test_what_a_later_stage_would_refuse_is_refused_before_any_stage(fakes, plan, changes, message):
    plan = dataclasses.replace(plan, **changes)
    if not message:
        analysis.analyse(fakes.cells, plan, fakes.talk)
        return
    with pytest.raises(ScaleError, match=message):
        analysis.analyse(fakes.cells, plan, fakes.talk)
    assert fakes.calls == []
    assert not plan.folder.exists()


def test_cells_that_the_filters_drop_are_not_counted_for_k(fakes, plan, monkeypatch):
    """The checks are called again on the prepared cells, before the training."""
    monkeypatch.setattr(
        sys.modules["scale_toolkit.stages.prepare"].prepare, "result", fakes.cells[:2].copy(), raising=False
    )
    plan = dataclasses.replace(plan, cluster=ClusterConfig(n_clusters=3))
    with pytest.raises(InputError, match="3 clusters requested of 2 cells"):
        analysis.analyse(fakes.cells, plan, fakes.talk)
    assert [name for name, _ in fakes.calls] == ["prepare"]


def test_a_reference_of_the_metadata_is_checked_when_it_has_joined(fakes, plan):
    table = pd.DataFrame({"donor": ["x", "y", "x"]}, index=fakes.cells.obs_names)
    plan = dataclasses.replace(plan, cluster=ClusterConfig(reference="donor"), metadata=table)
    with pytest.raises(InputError, match="no column 'donor'"):  # the fake does not join it
        analysis.analyse(fakes.cells, plan, fakes.talk)
    assert [name for name, _ in fakes.calls] == ["prepare"]


@pytest.mark.parametrize(("kept", "warned"), [(90, False), (89, True)])
def test_dropped_cells_are_a_warning_above_a_tenth(fakes, plan, kept, warned):
    receipt = {"stage": "prepare", "notes": {"cells_before": 100, "cells": kept}}
    fakes.cells.uns["scale"] = json.dumps([receipt])
    fakes.cells.uns["scale_qc"] = {"cell_least": 50.0}
    analysis.analyse(fakes.cells, plan, fakes.talk)
    text = "11 of 100 cells (11%) were dropped with fewer than 50 open peaks; --min-peaks sets the limit"
    assert (("warning", text) in fakes.said) == warned
