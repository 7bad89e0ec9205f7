"""The image, and the pipeline in it, with a real Docker engine on a base that debootstrap made."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import signal
import subprocess
import sys
import time

import anndata
import pytest

from scale_toolkit import __version__
from scale_toolkit._version import VERSION

from .conftest import ROOT, SMALL, content

NARROW = ("--rm", "--user", "12345:54321", "--read-only", "--tmpfs", "/tmp", "--network", "none")


def inside(docker: str, image: str, command: str, *options: str, **how) -> subprocess.CompletedProcess:
    """Run a line of shell in the image."""
    words = [docker, "run", *(options or NARROW), image, "bash", "-o", "pipefail", "-c", command]
    return subprocess.run(words, capture_output=True, **{"stdin": subprocess.DEVNULL, **how})


def good(*arguments, **how) -> bytes:
    done = inside(*arguments, **how)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_any_user_on_a_read_only_root_without_network_or_home(docker, image):
    said = good(docker, image, "unset HOME; scale demo -o /tmp/out && ls /tmp/out && id -u")
    made = [b"adata.h5ad", b"model.pt", b"report.html", b"simulated.h5ad", b"umap.pdf"]
    assert said.split() == [*made, b"12345"]


def test_where_only_the_temporary_folder_can_be_written(docker, image, small):
    """As in a task of the pipeline with a read-only root: the folders that the image names for caches cannot be made."""
    narrow = ("--rm", "--user", "12345", "--read-only", "--tmpfs", "/var/tmp", "-e", "TMPDIR=/var/tmp", "--network", "none")
    small.chmod(0o755)
    line = "scale train /in/a.h5ad --max-iter 20 | scale cluster | scale embed -o /var/tmp/e.h5ad && ls /var/tmp"
    done = inside(docker, image, line, *narrow, "-v", f"{small}:/in:ro")
    assert (done.returncode, done.stdout.split()) == (0, [b"e.h5ad"]), done.stderr.decode()
    assert b"matplotlib" not in done.stderr.lower()


def test_no_entrypoint_what_engines_need_and_what_is_not_left_in_it(docker, image):
    form = "{{json .Config.Entrypoint}} {{.Config.User}} {{json .Config.Cmd}}"
    said = subprocess.run([docker, "image", "inspect", "-f", form, image], capture_output=True, text=True, check=True).stdout
    assert said.split(maxsplit=2)[:2] == ["null", "10001:10001"]
    assert '"scale"' in said
    good(docker, image, "ps --version; awk --version || awk -W version; bash --version; date; tee --version; multiqc --version")
    absent = "gcc cc c++ make hatchling uv /opt/scale/bin/pip /opt/multiqc/bin/pip /opt/pip/bin/pip"
    assert good(docker, image, f"for tool in {absent}; do command -v $tool; done; true") == b""
    leftovers = r"find /opt /usr/local /var/lib/apt/lists \( -name '*.a' -o -name '*_Packages' -o -name '*.whl' \)"
    assert good(docker, image, leftovers).strip() == b""
    labels = subprocess.run(
        [docker, "image", "inspect", "-f", "{{json .Config.Labels}} {{json .Config.Env}}", image],
        capture_output=True,
        text=True,
    ).stdout
    for part in ("org.opencontainers.image.version", "org.opencontainers.image.licenses", "NVIDIA_VISIBLE_DEVICES=all"):
        assert part in labels


def test_the_image_holds_the_locked_versions(docker, image):
    """The versions of the environment that the tests run in, which is made from the same lock."""
    names = ("torch", "anndata", "scanpy", "numpy")
    script = f"import importlib.metadata as m; print(*(m.version(n) for n in {(*names, 'scale-toolkit')}))"
    here = [metadata.version(name) for name in names]
    python = good(docker, image, "python3 -c 'import sys; print(*sys.version_info[:2])'").split()
    found = good(docker, image, f'python3 -c "{script}"').decode().split()
    assert found[-1] == VERSION
    if [int(part) for part in python] == list(sys.version_info[:2]):
        assert [one.split("+")[0] for one in found[:-1]] == [one.split("+")[0] for one in here]


def test_h5ad_on_standard_input_and_out_of_standard_output(docker, image, small, tmp_path):
    with (small / "a.h5ad").open("rb") as source:
        words = ("--rm", "-i", "--read-only", "--tmpfs", "/tmp", "--user", "12345")
        made = good(docker, image, "scale prepare --min-peaks 10 | scale select-peaks --n-peaks 200", *words, stdin=source)
    (tmp_path / "out.h5ad").write_bytes(made)
    assert anndata.read_h5ad(tmp_path / "out.h5ad").n_vars == 200


def test_sigterm_ends_it_within_ten_seconds_and_leaves_no_half_file(docker, image, small, tmp_path):
    tmp_path.chmod(0o777)
    small.chmod(0o755)
    name = f"scale-sigterm-{os.getpid()}"
    command = [
        "scale",
        "train",
        "/in/a.h5ad",
        "--preset",
        "paper",
        "--max-iter",
        "1000000",
        "--patience",
        "0",
        "--model",
        "/out/m.pt",
        "-o",
        "/out/x.h5ad",
    ]
    mounts = ["-v", f"{small}:/in:ro", "-v", f"{tmp_path}:/out"]
    subprocess.run(
        [docker, "run", "-d", "--name", name, *mounts, "--user", "12345", image, *command], check=True, capture_output=True
    )
    try:
        time.sleep(8)  # in its training
        state = [docker, "inspect", "-f", "{{.State.Running}} {{.State.ExitCode}}", name]
        assert subprocess.run(state, capture_output=True, text=True).stdout.split()[0] == "true"
        begun = time.monotonic()
        subprocess.run([docker, "stop", "-t", "20", name], check=True, capture_output=True)
        assert time.monotonic() - begun < 10
        running, code = subprocess.run(state, capture_output=True, text=True).stdout.split()
        assert (running, int(code)) == ("false", 128 + signal.SIGTERM)
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run([docker, "rm", "-f", name], capture_output=True)


def test_the_pipeline_in_the_image_gives_what_it_gives_without(docker, image, demo, launch, tmp_path):
    """-with-docker as a user types it, on a read-only root; equal wheels, equal threads: equal content, byte for byte."""
    (tmp_path / "narrow.config").write_text(
        # not /tmp: a checkout and a work folder there are one mount of Nextflow's
        "docker.runOptions = '-u $(id -u):$(id -g) --read-only --tmpfs /var/tmp -e TMPDIR=/var/tmp --network none'\n"
    )
    run = launch(tmp_path, *SMALL, "--container", image, "-c", "narrow.config", "-with-docker")
    assert run.code == 0, run.said
    assert set(run.status().values()) == {"COMPLETED"}
    made = run.results / "demo" / "adata.h5ad"
    assert made.stat().st_uid == os.getuid()
    page = (run.results / "multiqc" / "multiqc_report.html").read_text()
    for part in ("Cluster sizes", "Cells of demo", "Training: loss"):
        assert part in page
    inside_image, outside = content(made), content(demo.results / "demo" / "adata.h5ad")
    # the image is built without .git: its version does not name the commit
    shape, kind, text = outside["uns/scale"]
    outside["uns/scale"] = (shape, kind, text.replace(__version__, VERSION))
    differing = {name for name in inside_image.keys() | outside.keys() if inside_image.get(name) != outside.get(name)}
    assert differing == set()


def test_a_missing_image_stops_the_run_with_the_command_that_builds_it(docker, launch, tmp_path):
    run = launch(tmp_path, "--container", "scale-toolkit:missing", "-with-docker")
    assert run.code != 0
    assert "the image scale-toolkit:missing is not there" in run.said
    assert f"build it: docker build -t scale-toolkit:missing {ROOT}" in run.said
    assert "Submitted process" not in run.said


@pytest.mark.parametrize("torch", ["cpu", "rocm"])
def test_a_build_that_cannot_be_says_why(docker, image, torch):
    """TORCH=cpu without its wheel, and a word that is neither."""
    if torch == "cpu" and (ROOT / "wheelhouse").exists():
        pytest.skip("a wheelhouse is there")
    words = ["build", "--network", "none", "--progress", "plain", "--build-arg", "BASE_IMAGE=scale-toolkit-base:bookworm"]
    words += ["--build-arg", f"TORCH={torch}", str(ROOT)]
    done = subprocess.run([docker, *words], env={**os.environ, "DOCKER_BUILDKIT": "1"}, capture_output=True, text=True)
    expected = {"cpu": "TORCH=cpu: no wheel of torch", "rocm": "TORCH=rocm; expected cu130 or cpu"}[torch]
    assert done.returncode != 0
    assert expected in done.stderr + done.stdout
