"""The pipeline on this machine, with real Nextflow: results, resumption, samples, interruptions."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import anndata
import pytest

from scale_toolkit import keys
from scale_toolkit.core.intervals import parse_names

from .conftest import ROOT, SMALL, STAGES, content, environment, receipts

FINAL = {keys.LATENT, keys.DECODER, keys.CLUSTER, keys.TSNE, keys.IMPUTED}


UNIT = {"MB": 1, "GB": 1024, "KB": 1 / 1024}


def in_seconds(text: str) -> float:
    """Nextflow's ``1h 30m``."""
    return sum(float(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in re.findall(r"([\d.]+)([smh])", text))


def test_no_option_but_the_engine_runs_simulated_cells_through_every_stage(demo):
    assert demo.status() == dict.fromkeys(
        [
            "SIMULATE demo",
            "PREPARE demo",
            "PLAN demo",
            *(f"{s.upper()} demo" for s in STAGES[1:]),
            "REPORT demo",
            "MULTIQC_CONTENT demo",
            "MULTIQC",
        ],
        "COMPLETED",
    )
    folder = demo.results / "demo"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"adata.h5ad", "train/model.pt", "embed/tsne.pdf", "report/report.html"}
    page = (folder / "report" / "report.html").read_text()
    assert "<h1>demo</h1>" in page
    assert "mostly (cell_type)" in page
    assert (folder / "embed" / "tsne.pdf").read_bytes().startswith(b"%PDF")
    adata = anndata.read_h5ad(folder / "adata.h5ad")
    assert all(slot.found_in(adata) for slot in FINAL)
    assert [one["stage"] for one in receipts(folder / "adata.h5ad")] == [
        "simulate",
        *(stage.replace("_", "-") for stage in STAGES),
    ]
    assert demo.samples() == {"demo": ["done", "impute"]}


def test_options_reach_their_stages(demo):
    options = {one["stage"]: one["options"] for one in receipts(demo.results / "demo" / "adata.h5ad")}
    assert options["train"]["max_iter"] == 60
    assert options["train"]["n_components"] == 3  # the planted clusters
    assert (options["cluster"]["method"], options["cluster"]["n_clusters"]) == ("kmeans", 3)
    assert options["cluster"]["reference"] == "cell_type"
    assert options["embed"]["method"] == "tsne"
    assert {options[stage]["n_threads"] for stage in ("train", "cluster", "embed")} == {1}
    assert {options[stage]["seed"] for stage in ("train", "cluster", "embed")} == {18}


def test_versions_and_reports_are_there(demo):
    folder = demo.results / "pipeline_info"
    versions = (folder / "versions.yml").read_text()
    for stage in (*STAGES, "report"):
        assert f'"SCALE:{stage.upper()}":' in versions
    kinds = ("trace_*.txt", "timeline_*.html", "report_*.html", "dag_*.mmd")
    assert all(len(list(folder.glob(kind))) == 1 for kind in kinds)


def test_the_multiqc_page_is_there_where_multiqc_is(demo):
    page = demo.results / "multiqc" / "multiqc_report.html"
    if shutil.which("multiqc", path=environment()["PATH"]):
        assert "Cluster sizes" in page.read_text()
    else:
        assert not page.exists()
        assert "multiqc was not found" in (demo.works("MULTIQC") / ".command.err").read_text()


def test_memory_follows_the_data(demo):
    """What was asked for covers what was used, and does not waste a machine on 300 cells."""
    for task in demo.tasks:
        asked, used = (float(text.split()[0]) * UNIT.get(text.split()[-1], 0) for text in (task["memory"], task["peak_rss"]))
        assert used <= asked <= 2048, task["name"]


def test_another_cluster_option_reruns_cluster_and_what_follows(demo, launch):
    before = {task["name"]: task["hash"] for task in demo.tasks}
    changed = launch(demo.folder, *SMALL, "--cluster_n_restarts", "3", "-resume", "--outdir", "again")
    changed.results = demo.folder / "again"
    assert changed.code == 0, changed.said
    status = changed.status()
    rerun = {"CLUSTER demo", "EMBED demo", "IMPUTE demo", "REPORT demo", "MULTIQC_CONTENT demo", "MULTIQC"}
    assert {task for task, what in status.items() if what == "COMPLETED"} == rerun
    assert {task for task, what in status.items() if what == "CACHED"} == set(status) - rerun
    assert {task["hash"] for task in changed.tasks if task["status"] == "CACHED"} <= set(before.values())
    (cluster,) = (one for one in receipts(changed.results / "demo" / "adata.h5ad") if one["stage"] == "cluster")
    assert cluster["options"]["n_restarts"] == 3


def test_a_stage_alone_on_the_file_before_it_gives_the_same_cells(demo, launch, tmp_path):
    """--start_from takes what --stop_after and --save_intermediates left."""
    trained = demo.works("TRAIN demo") / "demo.train.h5ad"
    shutil.copy(trained, tmp_path / "demo.h5ad")
    run = launch(
        tmp_path, "--input", "demo.h5ad", "--start_from", "cluster", "--stop_after", "embed", "--k", "3", "--threads", "1",
        "--cluster_method", "kmeans", "--embed_method", "tsne", "--cluster_reference", "cell_type", "--save_intermediates",
        "--skip_multiqc", "--skip_report",
    )  # fmt: skip
    assert run.code == 0, run.said
    assert set(run.status()) == {"PLAN demo", "CLUSTER demo", "EMBED demo"}
    here, there = content(run.results / "demo" / "adata.h5ad"), content(demo.works("EMBED demo") / "demo.embed.h5ad")
    assert here == there
    assert (run.results / "demo" / "cluster" / "demo.cluster.h5ad").exists()


def test_optional_steps_run_and_are_named_where_they_fail(demo, launch, tmp_path):
    """Doublets, markers, types and gene activity in one run; then types whose regions no peak overlaps."""
    shutil.copy(demo.works("SELECT_PEAKS demo") / "demo.select_peaks.h5ad", tmp_path / "demo.h5ad")
    cells = anndata.read_h5ad(tmp_path / "demo.h5ad")
    program = keys.PROGRAM.get(cells).astype(str)
    rows = [f"{program[name]}\t{name}" for name in cells.var_names if program[name].startswith("type")]
    (tmp_path / "types.tsv").write_text("\n".join(["type\tmarker", *rows]) + "\n")
    gene = '{0}\tx\tgene\t{1}\t{2}\t.\t+\t.\tgene_id "G{3}";\n'
    places = parse_names(cells.var_names[::40])
    lines = [gene.format(row.chrom, row.start + 1, row.end, number) for number, row in enumerate(places.itertuples())]
    (tmp_path / "genes.gtf").write_text("".join(lines))
    words = (
        "--input", "demo.h5ad", "--start_from", "train", "--stop_after", "cluster", "--k", "3", "--threads", "1",
        "--train_max_iter", "60", "--cluster_method", "kmeans", "--doublets", "--markers", "--markers_max_fdr", "0.01",
        "--gtf", "genes.gtf", "--gene_activity", "--skip_multiqc", "-resume",
    )  # fmt: skip
    run = launch(tmp_path, *words, "--types", "types.tsv")
    assert run.code == 0, run.said
    steps = ["PLAN", "TRAIN", "DOUBLETS", "CLUSTER", "MARKERS", "ANNOTATE", "GENES", "REPORT"]
    assert run.status() == {f"{step} demo": "COMPLETED" for step in steps}
    folder = run.results / "demo"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "adata.h5ad", "train/model.pt", "doublets/doublets.pdf", "markers/markers.tsv", "genes/genes.h5ad", "report/report.html",
    }  # fmt: skip
    adata = anndata.read_h5ad(folder / "adata.h5ad")
    history = receipts(folder / "adata.h5ad")
    assert [one["stage"] for one in history][-5:] == ["train", "doublets", "cluster", "markers", "annotate"]
    assert history[-2]["options"]["max_fdr"] == 0.01
    assert (adata.obs["scale_type"].astype(str) == adata.obs["cell_type"].astype(str)).mean() > 0.9
    assert "nearest_gene" in keys.MARKERS.get(adata)
    assert anndata.read_h5ad(folder / "genes" / "genes.h5ad").shape[1] >= len(lines)

    (tmp_path / "types.tsv").write_text("type\tmarker\ntype0\tchr1:1-2\n")
    run = launch(tmp_path, *words, "--types", "types.tsv")
    assert run.code != 0
    assert run.samples() == {"demo": ["failed", "annotate"]}
    assert "1 of 1 samples failed: demo at annotate" in run.said


def test_a_reference_takes_the_place_of_the_training(demo, launch, tmp_path):
    """Cells are mapped to a trained h5ad with its labels, then to its model alone; a failure is named `map`."""
    shutil.copy(demo.works("PREPARE demo") / "demo.prepare.h5ad", tmp_path / "demo.h5ad")
    shutil.copy(demo.works("TRAIN demo") / "demo.train.h5ad", tmp_path / "trained.h5ad")
    words = ("--input", "demo.h5ad", "--start_from", "select_peaks", "--k", "3", "--threads", "1", "--skip_multiqc")
    cells = ("--stop_after", "cluster", "--cluster_method", "kmeans", "--reference", "trained.h5ad")
    run = launch(tmp_path, *words, *cells, "--map_labels", "cell_type", "--map_min_weight", "0.2")
    assert run.code == 0, run.said
    assert run.status() == {f"{step} demo": "COMPLETED" for step in ("PLAN", "MAP", "CLUSTER", "REPORT")}
    folder = run.results / "demo"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"adata.h5ad", "map/novelty.pdf", "report/report.html"}
    mapped, clustered = receipts(folder / "adata.h5ad")[-2:]
    assert (mapped["stage"], clustered["stage"]) == ("map", "cluster")
    assert mapped["options"]["labels"] == ["cell_type"] and mapped["options"]["min_weight"] == 0.2
    adata = anndata.read_h5ad(folder / "adata.h5ad")
    label = keys.label_slots("cell_type")[0].get(adata)
    assert (label.astype(str) == adata.obs["cell_type"].astype(str)).mean() > 0.9

    run = launch(tmp_path, *words, *cells, "--map_labels", "absent", "--outdir", "failed")
    run.results = tmp_path / "failed"
    assert run.code != 0
    assert run.samples() == {"demo": ["failed", "map"]}

    model = demo.results / "demo" / "train" / "model.pt"
    alone = ("--stop_after", "train", "--reference", model, "--skip_report", "--outdir", "alone")
    run = launch(tmp_path, *words, *alone)
    assert run.code == 0, run.said
    (mapped,) = (one for one in receipts(tmp_path / "alone" / "demo" / "adata.h5ad") if one["stage"] == "map")
    assert "without_cells" in mapped["notes"]
    assert not (tmp_path / "alone" / "demo" / "map").exists()


def test_a_report_that_fails_is_told(launch, small, tmp_path):
    (tmp_path / "broken.config").write_text("process { withName: 'REPORT' { ext.args = '--label absent' } }\n")
    words = ("--stop_after", "train", "--threads", "1", "--train_max_iter", "20", "--prepare_min_peaks", "10", "--skip_multiqc")
    run = launch(tmp_path, *words, "--input", small / "a.h5ad", "-c", "broken.config")
    assert run.code != 0
    assert run.samples() == {"a": ["failed", "report"]}
    assert "1 of 1 samples failed: a at report" in run.said
    assert (run.results / "a" / "adata.h5ad").exists()


def test_every_stage_asks_for_what_the_plan_says(demo):
    """Memory and time of the trace are those of `scale plan` on what `prepare` left; `prepare` itself goes by bytes."""
    plan = json.loads((demo.works("PLAN demo") / "plan.json").read_text())["stages"]
    trained = json.loads((demo.works("PLAN demo") / "training.json").read_text())["stages"]
    assert trained["train"]["seconds"] < plan["train"]["seconds"] or trained["train"] == plan["train"]  # 60 steps
    for task in demo.tasks:
        stage = task["process"].split(":")[-1].lower()
        if stage in plan and stage != "prepare":
            asked = (trained if stage == "train" else plan)[stage]
            number, unit = task["memory"].split()
            assert float(number) * UNIT[unit] == pytest.approx(asked["memory_mb"], rel=0.06)
            assert in_seconds(task["time"]) == pytest.approx(1800 + 8 * asked["seconds"], abs=60)


def test_eight_samples_one_of_which_fails(launch, small, tmp_path):
    """The others finish, the merged sample too; the run ends with an error that names the sample and the stage."""
    folder = tmp_path / "in"
    shutil.copytree(small, folder)
    broken = anndata.read_h5ad(folder / "c.h5ad")
    broken[:, :3].copy().write_h5ad(folder / "c.h5ad")  # no cell passes
    run = launch(
        tmp_path, "--input", "in/sheet.csv", "--merge", "--stop_after", "cluster", "--cluster_method", "kmeans",
        "--threads", "1", "--train_max_iter", "20", "--prepare_min_peaks", "10",
        "--k", "2", "--prepare_join", "outer", "--skip_multiqc", "--skip_report",
    )  # fmt: skip
    assert run.code != 0
    samples = run.samples()
    assert samples.pop("c") == ["failed", "prepare"]
    assert samples == {name: ["done", "cluster"] for name in [*"abdefgh", "merged"]}
    assert "1 of 9 samples failed: c at prepare" in run.said
    for name in samples:
        assert (run.results / name / "adata.h5ad").exists()
    assert not (run.results / "c" / "adata.h5ad").exists()
    merged = anndata.read_h5ad(run.results / "merged" / "adata.h5ad")
    assert set(merged.obs["batch"]) == set("abdefgh")
    assert merged.n_obs == sum(anndata.read_h5ad(run.results / name / "adata.h5ad").n_obs for name in "abdefgh")


def waits_for(condition, seconds: float = 240) -> None:
    """Wait until something is so; it fails the test when it never is."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_goes_on_where_it_was(nextflow, launch, tmp_path, number):
    """Nextflow ends in the middle of the training; -resume repeats nothing that had finished."""
    words = [
        *SMALL[:4],
        "--train_max_iter",
        "4000",
        "--train_patience",
        "0",
        "--stop_after",
        "train",
        "--skip_multiqc",
        "--skip_report",
    ]
    command = [*nextflow, "run", str(ROOT / "main.nf"), *words]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=said, stderr=said, stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background has it ignored
        )  # fmt: skip

    def training() -> list[Path]:
        return [path.parent for path in tmp_path.glob("work/*/*/.command.begin") if "scale train" in script(path.parent)]

    def script(folder: Path) -> str:
        return (folder / ".command.sh").read_text()

    waits_for(lambda: training() or process.poll() is not None)
    assert process.poll() is None, (tmp_path / "said").read_text()
    time.sleep(3)  # into its work
    finished = {path.parent: path.stat().st_mtime_ns for path in tmp_path.glob("work/*/*/.exitcode")}
    assert len(finished) == 4  # simulate, prepare, size, select_peaks
    process.send_signal(number)
    process.wait(60)
    if number == signal.SIGKILL:  # the task outlives Nextflow
        (at,) = training()
        for pid in (path for path in Path("/proc").glob("[0-9]*/cwd") if path.exists() and path.resolve() == at):
            os.kill(int(pid.parent.name), signal.SIGTERM)
    (at,) = training()
    assert not list(at.glob("*.train.h5ad"))
    assert not list(at.glob("model.pt"))

    run = launch(tmp_path, *words, "-resume")
    assert run.code == 0, run.said
    status = run.status()
    assert status.pop("TRAIN demo") == "COMPLETED"
    assert set(status.values()) == {"CACHED"}
    assert len(status) == 4
    assert {path: (path / ".exitcode").stat().st_mtime_ns for path in finished} == finished
