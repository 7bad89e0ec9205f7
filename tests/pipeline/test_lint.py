"""What Nextflow's own strict parser and nf-core's tools say about the pipeline."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from .conftest import ENGINES, ROOT, answers, engine, environment

CACHE = Path(
    os.environ.get("SCALE_NEXTFLOW_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scale-nextflow"
)
FOLDERS = ("main.nf", "nextflow.config", "conf", "modules", "subworkflows", "workflows")


def sources() -> list[Path]:
    found = [ROOT / name for name in FOLDERS]
    found = [file for path in found for file in (path.rglob("*") if path.is_dir() else [path])]
    return sorted(file for file in found if file.suffix in (".nf", ".config"))


@pytest.fixture(scope="module")
def lint():
    engine("lint", lambda: answers("java", "-version") and answers("mvn", "-v"))
    return ENGINES / "lint"


def test_the_strict_parser_finds_no_error(lint):
    files = sources()
    assert len(files) >= 18
    done = subprocess.run([lint, *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"0 errors in {len(files)} files"), done.stdout + done.stderr


def test_the_strict_parser_would_find_one(lint, tmp_path):
    (tmp_path / "main.nf").write_text("workflow {\n    x = nowhere\n    while (true) { }\n}\n")
    assert subprocess.run([lint, tmp_path / "main.nf"], capture_output=True).returncode == 1


@pytest.fixture(scope="module")
def nf_core(nextflow, tmp_path_factory):
    """Return ``nf_core(*words)``: nf-core's tools with Nextflow on the PATH."""
    engine("nf-core", lambda: answers(CACHE / "nf-core" / "bin" / "nf-core", "--version"))
    folder = tmp_path_factory.mktemp("nf-core")
    (folder / "nextflow").write_text(f'#!/bin/sh\nexec {" ".join(nextflow)} "$@"\n')
    (folder / "nextflow").chmod(0o755)

    def run(*words: str | Path) -> subprocess.CompletedProcess:
        # nf-core remembers a pipeline's settings there, and takes no notice when conf/*.config change
        variables = environment(NO_COLOR="1", COLUMNS="200", NXF_HOME=str(folder / "home"))
        variables["PATH"] = f"{folder}{os.pathsep}{variables['PATH']}"
        variables.pop("PYTHONPATH")
        command = [CACHE / "nf-core" / "bin" / "nf-core", "pipelines", "schema", *words]
        return subprocess.run([str(word) for word in command], cwd=ROOT, env=variables, capture_output=True, text=True)

    return run


def test_nf_core_passes_the_schema(nf_core):
    done = nf_core("lint", "nextflow_schema.json")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Pipeline schema looks valid" in said
    assert "Default parameters match schema validation" in said


@pytest.mark.parametrize(("given", "good"), [({"k": 6, "cluster_method": "kmeans"}, True), ({"k": 0}, False)])
def test_nf_core_validates_parameters_by_the_schema(nf_core, tmp_path, given, good):
    (tmp_path / "given.json").write_text(json.dumps(given))
    done = nf_core("validate", ".", tmp_path / "given.json")
    # its exit code is 0 either way
    said = "Input parameters look valid" if good else "Input parameters are invalid: 0 is less than the minimum of 1"
    assert said in done.stdout + done.stderr
