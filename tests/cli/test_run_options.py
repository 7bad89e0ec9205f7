"""Every option of ``scale run`` reaches the config of the stage it is meant for, under SCALE.py's name."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import typer

from scale_toolkit.cli.app import app, main
from scale_toolkit.config import ClusterConfig, EmbedConfig, ImputeConfig, PrepareConfig, SelectPeaksConfig, TrainConfig

run_module = importlib.import_module("scale_toolkit.cli.run")

#: option: (words, what they change in the plan). Both spellings of SCALE.py's names are tried for every case.
CASES = {
    "--n-centroids": ("-k 6", {"train.n_components": 6, "cluster.n_clusters": 6}),
    "--outdir": ("-o other", {"folder": Path("other")}),
    "--max-iter": ("--max_iter 7", {"train.max_iter": 7}),
    "--max-epochs": ("--max_epochs 7", {"train.max_epochs": 7}),
    "--lr": ("--lr 0.1", {"train.lr": 0.1}),
    "--seed": ("--seed 3", {"train.seed": 3, "embed.seed": 3, "cluster.seed": 3}),
    "--n-threads": ("--n_threads 2", {"train.n_threads": 2, "embed.n_threads": 2, "cluster.n_threads": 2}),
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
    "--impute": ("--impute", {"impute": ImputeConfig(numeric=True)}),
    "--binary": ("--binary", {"impute": ImputeConfig(binary=True)}),
    "--embed": ("--embed tSNE", {"embed.method": "tsne"}),
    "--reference": ("--reference sort_gate", {"cluster.reference": "sort_gate"}),
    "--cluster-method": ("--cluster_method kmeans", {"cluster.method": "kmeans"}),
    "--resolution": ("--resolution 0.5", {"cluster.resolution": 0.5}),
    "--stability": ("--stability 9", {"cluster.stability": 9}),
    "--pretrain": ("--pretrain {model}", {"pretrain": "{model}", "prepare.min_cells": 0}),
    "--pretrain-peaks": (
        "--pretrain {model} --pretrain_peaks {model}",
        {"pretrain": "{model}", "pretrain_peaks": "{model}", "prepare.min_cells": 0},
    ),
}
#: Options that shape no plan; each has a test of its own.
OTHERS = {"--data-list", "--modality", "--verbose", "--dry-run", "--quiet", "--json-logs", "--debug"}


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """Return ``planned(words)``: sources, plan and talk of a call of ``scale run``, without any work."""
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(run_module, "analyse", lambda cells, plan, talk: seen.append((cells, plan, talk)))
    monkeypatch.setattr(run_module, "read_inputs", lambda sources, names, modality: list(sources))

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
        ("-k 6", "error: no input; expected -d INPUT"),
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


def test_analyse_hands_each_stage_its_config(monkeypatch, tmp_path):
    """`analyse` with stages that only note their config: every config of the plan arrives, in order, and no other."""
    calls = []
    cells = SimpleNamespace(
        obs=pd.DataFrame({"scale_cluster": pd.Categorical(["0", "1"]), "celltype": ["a", "b"]}),
        uns={}, n_obs=2, n_vars=3,
    )  # fmt: skip

    def fake(name):
        def stage(adata, config, **_):
            calls.append((name, config))
            return (adata, {"obsm/imputed": "blocks"}) if name == "streamed" else adata

        return stage

    names = {
        "prepare": ["prepare"], "select_peaks": ["select_peaks"], "train": ["train", "encode"],
        "cluster": ["cluster"], "embed": ["embed"], "impute": ["streamed"],
    }  # fmt: skip
    for module, functions in names.items():
        stub = SimpleNamespace(**{function: fake(function) for function in functions})
        monkeypatch.setitem(sys.modules, f"scale_toolkit.stages.{module}", stub)
    sys.modules["scale_toolkit.stages.train"].find_device = lambda name: calls.append(("device", name))
    import scale_toolkit.io.h5ad
    import scale_toolkit.plot

    monkeypatch.setattr(scale_toolkit.plot, "embedding", lambda *_, **how: calls.append(("plot", how)), raising=False)
    monkeypatch.setattr(
        scale_toolkit.io.h5ad, "write_h5ad", lambda adata, path, streamed: calls.append(("write", (path, streamed)))
    )
    monkeypatch.setattr(run_module, "results", lambda *given: (given[1:], {}))
    said = []
    talk = SimpleNamespace(
        progress=run_module.Talk(quiet=True).progress, info=said.append, show=lambda *what: said.append(what)
    )
    plan = run_module.Plan(
        folder=tmp_path / "out",
        prepare=PrepareConfig(min_peaks=np.float64(1)),
        select=SelectPeaksConfig(n_peaks=2),
        train=TrainConfig(latent=2),
        embed=EmbedConfig(method="tsne"),
        cluster=ClusterConfig(n_clusters=2),
        impute=ImputeConfig(binary=True),
    )
    run_module.analyse(cells, plan, talk)
    with_labels = dataclasses.replace(plan.cluster, reference="celltype")
    end = [
        ("cluster", with_labels),
        ("embed", plan.embed),
        ("plot", {"basis": "X_tsne", "color": ["scale_cluster", "celltype"], "save": tmp_path / "out" / "tsne.pdf"}),
        ("streamed", plan.impute),
        ("write", (tmp_path / "out" / "adata.h5ad", {"obsm/imputed": "blocks"})),
    ]
    assert calls == [("device", "auto"), ("prepare", plan.prepare), ("select_peaks", plan.select), ("train", plan.train), *end]
    assert said == [((tmp_path / "out", tmp_path / "out" / "tsne.pdf", "celltype"), {})]

    calls.clear()
    model = tmp_path / "model.pt"
    model.write_bytes(b"weights")
    run_module.analyse(cells, dataclasses.replace(plan, pretrain=model), talk)
    assert calls == [("device", "auto"), ("prepare", plan.prepare), ("encode", plan.train), *end]
