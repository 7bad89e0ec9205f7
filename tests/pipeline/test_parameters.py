"""What stops a run at its start, in the parameter's own name, and what `--help` says. Real Nextflow, no task runs."""

from __future__ import annotations

import json

import pytest

from .conftest import ROOT


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ("--clustr_method kmeans", ["--clustr_method is unknown; did you mean --cluster_method?"]),
        ("--no-such-thing 1", ["--no-such-thing is unknown"]),
        ("--k zero", ["--k is zero; expected an integer"]),
        ("--k 0", ["--k is 0; expected 1 or more"]),
        ("--embed_min_dist 1.5", ["--embed_min_dist is 1.5; expected 1 or less"]),
        ("--train_lr fast", ["--train_lr is fast; expected a number"]),
        ("--merge maybe", ["--merge is maybe; expected true or false"]),
        ("--cluster_method louvain", ["--cluster_method is louvain; expected one of leiden, kmeans, gmm"]),
        ("--cluster_reference it's", ["--cluster_reference is it's; expected a text like"]),
        ("--train_encode_dim wide", ["--train_encode_dim is wide; expected a text like"]),
        ("--input nowhere.h5ad", ["--input is nowhere.h5ad; expected a file or a folder that is there"]),
        ("--blacklist nowhere.bed", ["--blacklist is nowhere.bed; expected a file that is there"]),
        ("--start_from train", ["--start_from is train, --input is not given"]),
        ("--start_from train --stop_after prepare", ["--start_from is train and --stop_after prepare"]),
        ("--merge", ["--merge is true; expected a samplesheet"]),
        ("--k 0 --train_latent 0", ["--k is 0; expected 1 or more", "--train_latent is 0; expected 1 or more"]),
        ("--gene_activity", ["--gene_activity is true, --gtf is not given; expected both"]),
        ("--doublets --stop_after select_peaks", ["--doublets is true; expected a run with the stage train"]),
        (f"--reference {ROOT}/main.nf --pretrain {ROOT}/main.nf", ["--reference and --pretrain are given; expected one of them"]),
        (f"--reference {ROOT}/main.nf --stop_after prepare", ["; expected a run with the stage train, which map takes the place of"]),
        ("--reference nowhere.h5ad", ["--reference is nowhere.h5ad; expected a file that is there"]),
        ("--markers --stop_after train", ["--markers is true and --stop_after train; expected cluster or later"]),
        ("--train_nodes 2", ["--train_nodes is 2; expected -profile slurm without a container"]),
        ("-profile slurm,docker --train_nodes 2", ["--train_nodes is 2 in docker; expected -profile slurm without a container"]),
        ("-profile k8s", ["--k8s_claim is not given; expected with -profile k8s"]),
    ],
)
def test_a_wrong_parameter_stops_the_run_by_name(launch, tmp_path, words, messages):
    run = launch(tmp_path, *words.split())
    assert run.code != 0
    for message in messages:
        assert message in run.said
    assert "Submitted process" not in run.said
    assert not (tmp_path / "work").exists() or not list((tmp_path / "work").glob("*/*"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["sample,path,colour", "a,a.h5ad,red"], "column 'colour' is unknown; expected sample, path, batch, k"),
        (["sample,path", "a b,a.h5ad"], "line 2: sample is 'a b'; expected letters"),
        (["sample,path", "a,a.h5ad", "", "b,missing.h5ad"], "line 4: path is 'missing.h5ad'; expected a file or a folder"),
        (["sample,path,k", "a,a.h5ad,many"], "line 2: k is 'many'; expected an integer, 1 or more"),
        (["sample,path,k", "a,a.h5ad,2", "a,a.h5ad,3"], "sample a has several k; expected one"),
        (
            ["sample,path,batch", "a,a.h5ad,x", "a,a.h5ad,x"],
            "two rows of a are named a_x; expected a batch of its own for each",
        ),
        (["sample,path", "merged,a.h5ad"], "a sample is named merged; expected another name"),
        (["sample,path", "a"], "line 2 has 1 values; expected 2"),
        (["sample,path"], "no rows; expected a line for each input"),
    ],
)
def test_a_wrong_samplesheet_stops_the_run_by_line(launch, tmp_path, rows, message):
    (tmp_path / "a.h5ad").touch()
    (tmp_path / "sheet.csv").write_text("\n".join(rows) + "\n")
    run = launch(tmp_path, "--input", "sheet.csv")
    assert run.code != 0
    assert message in run.said
    assert "Submitted process" not in run.said


def test_help_is_made_of_the_schema(launch, tmp_path):
    run = launch(tmp_path, "--help")
    assert run.code == 0
    said = " ".join(run.said.split())
    groups = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"].values()
    for group in groups:
        for name, spec in group["properties"].items():
            if not spec.get("hidden"):
                assert f"--{name} (" in said
                assert " ".join(spec["description"].split()) in said
    assert "--report_suffix" not in said
