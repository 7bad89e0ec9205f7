"""Real engines for the pipeline's tests: used where that is asked for, and installed and started where that is allowed.

``SCALE_TEST_ENGINES=use`` takes the engines that run; ``start`` lets the tests install and start what they lack, which changes
the machine. A test whose engine is not there, or not asked for, skips and says so.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
ENGINES = ROOT / "tests" / "engines"
IMAGE = "scale-toolkit:test"
STAGES = ("prepare", "select_peaks", "train", "cluster", "embed", "impute")


def pytest_collection_modifyitems(items):
    """The first test that needs an engine installs it, or builds the image."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(2700))


def environment(**more: str) -> dict[str, str]:
    """The environment of a run: this environment's `scale`, from this checkout, on quiet machines and busy ones alike."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "NXF_HOME")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    places = f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}" if os.environ.get("PYTHONPATH") else str(ROOT)
    return {**inherited, "PATH": path, "PYTHONPATH": places, "NXF_ANSI_LOG": "false", "NXF_OFFLINE": "true", **more}


def engine(name: str, is_there) -> None:
    """Make sure an engine runs, or skip with the reason. One process at a time installs and starts."""
    wish = os.environ.get("SCALE_TEST_ENGINES")
    if wish not in ("use", "start"):
        pytest.skip(f"{name} is left alone (SCALE_TEST_ENGINES=use takes what runs here, start installs and starts it too)")
    if is_there():
        return
    if wish != "start":
        pytest.skip(f"{name} is not running here (SCALE_TEST_ENGINES=start installs and starts it, as root on Debian)")
    with Path(tempfile.gettempdir(), "scale-test-engines.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([ENGINES / "start", name], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        pytest.skip(f"{name} cannot be had here: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")


def answers(*command: str | Path) -> bool:
    """Whether a command is there and ends well."""
    try:
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def docker_client() -> str:
    """Debian's client where it is there, which it may be only once the engine has been installed."""
    return "/usr/bin/docker" if Path("/usr/bin/docker").exists() else shutil.which("docker") or "docker"


class Run:
    """What a run of Nextflow left: exit code, what it said, its folder and its trace."""

    def __init__(self, done: subprocess.CompletedProcess, folder: Path) -> None:
        self.code, self.said, self.folder = done.returncode, done.stdout + done.stderr, folder
        self.results = folder / "results"

    @property
    def tasks(self) -> list[dict[str, str]]:
        """The newest trace: one dict a task."""
        traces = sorted(self.results.glob("pipeline_info/trace_*.txt"), key=lambda path: path.stat().st_mtime_ns)
        with traces[-1].open() as file:
            return list(csv.DictReader(file, delimiter="\t"))

    def status(self) -> dict[str, str]:
        """The status of each task, by ``STAGE sample``; the last attempt counts."""
        ordered = sorted(self.tasks, key=lambda task: int(task["task_id"]))
        return {f"{task['process'].split(':')[-1]} {task['tag']}".removesuffix(" -"): task["status"] for task in ordered}

    def samples(self) -> dict[str, list[str]]:
        """The summary: what each sample came to."""
        rows = (self.results / "pipeline_info" / "samples.tsv").read_text().splitlines()[1:]
        return {row.split("\t")[0]: row.split("\t")[1:] for row in rows}

    def works(self, task: str) -> Path:
        """The work folder of a task."""
        process, tag = [*task.split(" "), "-"][:2]
        return next(
            Path(one["workdir"]) for one in self.tasks if one["process"].split(":")[-1] == process and one["tag"] == tag
        )


@pytest.fixture(scope="session")
def nextflow() -> list[str]:
    """The words that start Nextflow."""
    installed = shutil.which("nextflow")
    own = ENGINES / "nextflow"
    engine("nextflow", lambda: installed or (shutil.which("java") and shutil.which("mvn") and answers(own, "-version")))
    return ["nextflow"] if installed else [str(own)]


@pytest.fixture(scope="session")
def launch(nextflow):
    """Return ``launch(folder, *words)``: run the pipeline in a folder, to its end, with the cores the tests may use."""

    def run(folder: Path, *words: str | Path, main: Path = ROOT, **variables: str) -> Run:
        command = [*nextflow, "run", main / "main.nf", *words]
        done = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env=environment(**variables),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        return Run(done, folder)

    return run


@pytest.fixture(scope="session")
def docker() -> str:
    """The docker client, its engine running."""
    engine("docker", lambda: answers(docker_client(), "info"))
    return docker_client()


@pytest.fixture(scope="session")
def image(docker) -> str:
    """The project's image, built on a base that debootstrap made: no image is pulled."""
    if os.environ.get("SCALE_TEST_ENGINES") != "start":
        engine("image", lambda: answers(docker, "image", "inspect", IMAGE))
    else:
        engine("image", lambda: False)
    return IMAGE


@pytest.fixture(scope="session")
def slurm(nextflow) -> None:
    """A Slurm that answers."""
    engine("slurm", lambda: answers("sinfo"))


#: Small, quick and without the slow parts that are not the pipeline's: 300 cells × 2,000 peaks, one thread.
SMALL = ("-profile", "test", "--threads", "1", "--train_max_iter", "60", "--cluster_method", "kmeans", "--embed_method", "tsne")


@pytest.fixture(scope="session")
def demo(launch, tmp_path_factory) -> Run:
    """One whole local run on simulated cells."""
    run = launch(tmp_path_factory.mktemp("local"), *SMALL)
    assert run.code == 0, run.said
    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A folder of eight small matrices and a samplesheet: a.h5ad to h.h5ad."""
    import scale_toolkit

    folder = tmp_path_factory.mktemp("small")
    names = "abcdefgh"
    made = scale_toolkit.simulate(n_cells=640, n_peaks=600, n_clusters=2, open_peaks=120, seed=0)  # the same peaks for all
    cells = anndata.AnnData(made.X, obs=made.obs[["cell_type"]], var=made.var[[]])
    for part, name in enumerate(names):
        cells[part :: len(names)].copy().write_h5ad(folder / f"{name}.h5ad")
    rows = [f"{name},{name}.h5ad,,2" for name in names]
    (folder / "sheet.csv").write_text("\n".join(["sample,path,batch,k", *rows]) + "\n")
    return folder


def content(path: Path) -> dict[str, object]:
    """Every array, text and attribute of an h5ad, as bytes; all but time, memory and host, which no two runs share."""
    found: dict[str, object] = {}

    def visit(name: str, item: h5py.HLObject) -> None:
        if name == "uns/scale_runtime":
            return
        found[f"{name}@"] = {key: str(value) for key, value in sorted(item.attrs.items())}
        if isinstance(item, h5py.Dataset):
            value = item[()]
            is_array = isinstance(value, np.ndarray) and value.dtype.kind != "O"
            found[name] = (item.shape, str(item.dtype), value.tobytes() if is_array else str(np.asarray(value).tolist()))

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def receipts(path: Path) -> list[dict]:
    """The stages' receipts of an h5ad."""
    with h5py.File(path) as file:
        return json.loads(file["uns/scale"].asstr()[()])
