"""What each profile changes, as Nextflow itself resolves it."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest

from .conftest import ROOT, environment


@pytest.fixture(scope="module")
def resolved(nextflow, tmp_path_factory):
    """Return ``resolved(profile)``: the configuration as flat names and values."""
    folder, known = tmp_path_factory.mktemp("config"), {}

    def config(profile: str) -> dict[str, str]:
        if profile not in known:
            words = [*nextflow, "config", "-flat", *(["-profile", profile] if profile else []), str(ROOT)]
            done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
            pairs = (line.partition(" = ") for line in done.stdout.splitlines() if " = " in line)
            known[profile] = {name: value.removeprefix("'").removesuffix("'") for name, _, value in pairs}
        return known[profile]

    return config


IMAGE = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"]["resource_options"]["properties"]["container"][
    "default"
]


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("", {"process.container": IMAGE, "docker.runOptions": "-u $(id -u):$(id -g)", "workflow.failOnIgnore": "true"}),
        ("docker", {"docker.enabled": "true", "process.container": IMAGE}),
        ("podman", {"podman.enabled": "true", "podman.runOptions": "--userns=keep-id", "process.container": IMAGE}),
        ("singularity", {"singularity.enabled": "true", "process.container": f"{ROOT}/scale-toolkit.sif"}),
        ("apptainer", {"apptainer.enabled": "true", "process.container": f"{ROOT}/scale-toolkit.sif"}),
        ("conda", {"conda.enabled": "true", "process.conda": f"{ROOT}/environment.yml"}),
        ("slurm", {"process.executor": "slurm", "process.resourceLimits": "[cpus:1024, memory:'16 TB', time:'30 d']"}),
        ("awsbatch", {"process.executor": "awsbatch", "docker.enabled": "true"}),
        ("google-batch", {"process.executor": "google-batch", "docker.enabled": "true"}),
        ("azurebatch", {"process.executor": "azurebatch", "docker.enabled": "true"}),
        ("k8s", {"process.executor": "k8s", "k8s.namespace": "default", "docker.enabled": "true"}),
        ("gpu", {"params.use_gpu": "true"}),
        ("test", {"params.demo_cells": "300", "params.train_max_iter": "200"}),
        ("test_full", {"params.demo_cells": "10000", "params.demo_peaks": "50000"}),
        ("debug", {"dumpHashes": "true", "process.beforeScript": 'echo "on $(hostname)"'}),
        ("slurm,singularity,gpu", {"process.executor": "slurm", "singularity.enabled": "true", "params.use_gpu": "true"}),
    ],
)
def test_a_profile_sets_what_it_is_for(resolved, profile, expected):
    found = resolved(profile)
    assert {name: found.get(name) for name in expected} == expected


def test_profiles_leave_the_resources_as_they_are(resolved):
    """A profile's `withLabel` would replace the base block of that name whole."""
    plain = {name: value for name, value in resolved("").items() if "withLabel" in name}
    assert any("process_high" in name for name in plain)
    for profile in ("docker", "slurm", "awsbatch", "google-batch", "azurebatch", "k8s", "gpu", "test"):
        assert {name: value for name, value in resolved(profile).items() if "withLabel" in name} == plain


def test_no_container_engine_is_on_by_itself(resolved):
    found = resolved("")
    assert not any(
        found.get(f"{engine}.enabled") == "true" for engine in ("docker", "podman", "singularity", "apptainer", "conda")
    )
    assert "process.executor" not in found


def test_on_this_machine_no_task_asks_for_more_than_it_has(resolved):
    found = resolved("")
    cpus, memory = re.match(r"\[cpus:(\d+), memory:'?(\d+) MB", found["process.resourceLimits"]).groups()
    assert int(cpus) == os.cpu_count()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    assert abs(int(memory) - total) < 0.1 * total


@pytest.mark.parametrize(
    ("engine", "words", "use_gpu"),
    [
        ("docker", "--gpus all", True),
        ("docker", "--gpus", False),
        ("podman", "--device nvidia.com/gpu=all", True),
        ("singularity", "--nv", True),
        ("apptainer", "--nv", True),
    ],
)
def test_a_gpu_is_shown_to_the_container_where_it_is_asked_for(launch, tmp_path, engine, words, use_gpu):
    """A stand-in of the engine notes its words and ends: what Nextflow calls it with, for the training and for nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    stand_in = folder / engine
    stand_in.write_text(
        "#!/bin/bash\n"
        'case "$1" in image|pull|kill|rm|--version|version) exit 0;; esac\n'
        f'echo "$@" | tr "\\n" " " >> {tmp_path}/words; echo >> {tmp_path}/words\n'
        "exec bash .command.sh\n"  # the stub's script, in the task's folder
    )
    stand_in.chmod(0o755)
    (tmp_path / "image.sif").touch()
    gpu = ["--use_gpu"] if use_gpu else []
    run = launch(
        tmp_path, "-profile", engine, "-stub-run", "--skip_multiqc", "--singularity_image", tmp_path / "image.sif", *gpu,
        PATH=f"{folder}{os.pathsep}{environment()['PATH']}",
    )  # fmt: skip
    calls = (tmp_path / "words").read_text().splitlines()
    assert run.code == 0, run.said
    assert len(calls) == len(run.tasks) >= 8
    assert sum(words in call for call in calls) == use_gpu
    if engine == "docker":
        assert all(f"-u {os.getuid()}:{os.getgid()}" in call for call in calls)
