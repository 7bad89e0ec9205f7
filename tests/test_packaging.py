"""The distribution, its locks, and the set-up behind ``./scale`` and ``./test``."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {name: (ROOT / "requirements" / f"{name}.lock").read_text() for name in ("build", "run", "test")}
MACHINES = [
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
]
ENVIRONMENTS = [
    machine
    | {"python_version": version, "python_full_version": f"{version}.4", "implementation_name": "cpython", "os_name": "posix"}
    | {"platform_python_implementation": "CPython", "extra": ""}
    for version, machine in itertools.product(("3.11", "3.12", "3.13"), MACHINES)
]
every_environment = pytest.mark.parametrize(
    "environment", ENVIRONMENTS, ids=lambda e: f"{e['python_version']}-{e['sys_platform']}-{e['platform_machine']}"
)


def entries(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Return each entry of a lock with its hashes."""
    lines = re.sub(r"\s*\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", LOCKS[lock], flags=re.M)).splitlines()
    return [(Requirement(line.split(" --hash=")[0]), line.split(" --hash=")[1:]) for line in lines if line.strip()]


def pins(lock: str, environment: dict[str, str]) -> dict[str, str]:
    """Return name -> version of what a lock installs in an environment."""
    found: dict[str, str] = {}
    for requirement, _ in entries(lock):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", requirement
            assert canonicalize_name(requirement.name) not in found, f"{requirement.name} twice in {environment}"
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


# the locks


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_of_a_lock_has_hashes(lock):
    assert len(entries(lock)) > 5
    for requirement, hashes in entries(lock):
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value.strip()) for value in hashes), requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_registry_and_no_folder_of_a_machine(lock):
    assert "://" not in LOCKS[lock]
    assert not re.search(r"^\s*-", re.sub(r"--hash=\S+", "", LOCKS[lock]), re.M), "options such as --index-url"
    assert not re.search(r"(^|\s)(/|~|file:)\S", LOCKS[lock])


@every_environment
def test_the_locks_hold_what_pyproject_asks_for(environment):
    groups = PROJECT["dependency-groups"]
    asked = {
        "build": groups["build"] + PROJECT["build-system"]["requires"],
        "run": PROJECT["project"]["dependencies"] + groups["build"],
        "test": PROJECT["project"]["dependencies"] + groups["build"] + groups["test"],
    }
    for lock, requirements in asked.items():
        pinned = pins(lock, environment)
        for requirement in map(Requirement, requirements):
            version = pinned.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement.name} is not in {lock}.lock: run requirements/update"
            assert requirement.specifier.contains(version), f"{requirement}, but {lock}.lock has {version}; update it"


@every_environment
def test_the_small_locks_are_parts_of_the_large_one(environment):
    build, run, test = (pins(lock, environment).items() for lock in ("build", "run", "test"))
    assert build < run < test


def test_the_lock_is_closed_under_what_the_installed_packages_ask_for():
    pinned = pins("test", dict(ENVIRONMENTS[0]) | {"python_version": VERSION} | _here())
    overridden = {canonicalize_name(Requirement(line).name) for line in _overrides()}
    checked = 0
    for name, version in pinned.items():
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # another environment than the lock's
        if distribution.version != version:
            continue
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed = canonicalize_name(requirement.name)
                if needed not in overridden:
                    assert needed in pinned, f"{name} asks for {requirement}"
                    assert requirement.specifier.contains(pinned[needed], prereleases=True), f"{name} asks for {requirement}"
                checked += 1
    assert checked > 100


def _here() -> dict[str, str]:
    return {
        "python_full_version": platform.python_version(),
        "sys_platform": sys.platform,
        "platform_machine": os.uname().machine,
        "platform_system": os.uname().sysname,
    }


def _overrides() -> list[str]:
    lines = (ROOT / "requirements" / "overrides.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_what_the_package_imports_is_declared():
    optional = PROJECT["project"]["optional-dependencies"].values()
    lines = [*PROJECT["project"]["dependencies"], *itertools.chain(*optional)]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    declared.add("triton")  # torch brings it where there is CUDA; elsewhere its import is guarded
    owners = importlib.metadata.packages_distributions()
    missing = {}
    for file in (ROOT / "scale_toolkit").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"scale_toolkit"}:
                if not declared & {canonicalize_name(owner) for owner in owners.get(top, [])}:
                    missing[top] = str(file.relative_to(ROOT))
    assert not missing


def test_everything_declared_is_imported():
    source = "\n".join(file.read_text() for file in (ROOT / "scale_toolkit").rglob("*.py"))
    modules = {"scikit-learn": "sklearn", "umap-learn": "umap"}
    loaded_by_others = {"leidenalg", "igraph"}  # by scanpy, for flavours that ask for them
    for name in (Requirement(line).name for line in PROJECT["project"]["dependencies"]):
        module = modules.get(name, name)
        found = re.search(rf"\b(import|from) {module}\b|import_module\([\"']{module}\b", source)
        assert found or name in loaded_by_others, f"{name} is declared and not used"


# the distribution


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel as a release would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_the_package_its_licence_and_nothing_else(wheel):
    assert re.fullmatch(r"scale_toolkit-[0-9.]+-py3-none-any\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
        (licence,) = (archive.read(name).decode() for name in names if name.endswith("/LICENSE"))
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("/entry_points.txt"))
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "scale_toolkit").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert {"scale_toolkit/py.typed", "scale_toolkit/__init__.pyi"} <= names  # the types of the public API
    assert all(name.startswith(("scale_toolkit/", "scale_toolkit-")) for name in names)
    assert "\nName: scale-toolkit\n" in metadata
    assert "\nLicense-Expression: MIT\n" in metadata
    assert licence == (ROOT / "LICENSE").read_text()
    assert "scale = scale_toolkit.cli" in entry_points
    assert "SCALE.py = scale_toolkit.cli" in entry_points


def test_the_wheel_installs_and_its_commands_answer(wheel, tmp_path):
    from scale_toolkit._version import VERSION

    environment = tmp_path / "env"
    own_pip = any(importlib.metadata.distributions(name="pip"))  # find_spec would wake setuptools' stand-in for distutils
    subprocess.run([sys.executable, "-m", "venv", *["--without-pip"] * own_pip, environment], check=True, capture_output=True)
    python, site = environment / "bin" / "python", next(environment.glob("lib/python3*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # installed once is enough
    pip = [sys.executable, "-m", "pip", "--python", python] if own_pip else [python, "-m", "pip"]
    options = ["--no-index", "--no-deps", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*pip, "install", *options, wheel], check=True, capture_output=True)

    def answer(*command: str | Path) -> str:
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    where = answer(python, "-c", "import scale_toolkit; print(scale_toolkit.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    assert VERSION in answer(environment / "bin" / "scale", "--version")
    assert VERSION in answer(python, "-m", "scale_toolkit", "--version")
    assert "--n_centroids" in answer(environment / "bin" / "SCALE.py", "--help").replace("--n-centroids", "--n_centroids")


# the quick start


def test_the_quick_start_is_two_commands_that_exist():
    section = (ROOT / "README.md").read_text().split("\n## Quick start\n")[1].split("\n## ")[0]
    commands = [line for block in re.findall(r"```\w*\n(.*?)```", section, re.S) for line in block.splitlines()]
    assert len(commands) == 2
    for command in commands:
        assert os.access(ROOT / command.split()[0], os.X_OK)
    first, second = commands
    help_text = subprocess.run([sys.executable, "-m", "scale_toolkit", "--help"], capture_output=True, text=True, check=True)
    assert f" {first.split()[1]} " in help_text.stdout
    assert second in (ROOT / ".ci" / "run").read_text()


@pytest.fixture
def bare_path(tmp_path) -> Path:
    """Return a PATH with a shell and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "readlink", "sleep"):
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def launch(path: Path, tmp_path: Path, **settings: str) -> subprocess.CompletedProcess:
    """Call ``./scale`` with a PATH and an environment folder that is not there."""
    variables = {"PATH": str(path), "SCALE_VENV": str(tmp_path / "none"), **settings}
    return subprocess.run([ROOT / "scale", "--version"], env=variables, capture_output=True, text=True)


def fake_python(folder: Path, name: str, version: str) -> None:
    """Put a Python of another version on the PATH."""
    script = folder / name
    script.write_text(f'#!/bin/sh\ncase "$*" in *--version*) echo "Python {version}";; *) exit 1;; esac\n')
    script.chmod(0o755)


def test_no_python_is_one_line(bare_path, tmp_path):
    result = launch(bare_path, tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "no python3 was found; expected Python 3.11, 3.12 or 3.13; install it" in result.stderr
    assert "apt install python3 python3-venv" in result.stderr


def test_an_old_python_is_one_line_with_its_version(bare_path, tmp_path):
    fake_python(bare_path, "python3", "3.9.2")
    result = launch(bare_path, tmp_path)
    assert result.returncode == 1
    assert "python3 is Python 3.9.2; expected Python 3.11" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_wrong_scale_python_is_said_and_no_other_is_taken(bare_path, tmp_path):
    (bare_path / "python3").symlink_to(sys.executable)
    result = launch(bare_path, tmp_path, SCALE_PYTHON="/nowhere/python3")
    assert result.returncode == 1
    assert "SCALE_PYTHON=/nowhere/python3 is no Python 3.11" in result.stderr


def test_a_fitting_python_behind_an_old_one_is_found(bare_path, tmp_path):
    fake_python(bare_path, "python3", "3.9.2")
    good = bare_path / "python3.12"
    good.write_text('#!/bin/sh\ncase "$*" in *environment.py*) echo "took over: $*";; esac\n')
    good.chmod(0o755)
    result = launch(bare_path, tmp_path)
    assert result.returncode == 0
    assert re.match(r"took over: -I -S \S+/requirements/environment.py run scale --version", result.stdout)


def ready_environment(folder: Path, command: str) -> Path:
    """Make a folder that looks like a finished environment, with one command in it."""
    module = load_environment()
    (folder / "bin").mkdir(parents=True)
    (folder / module.MARKER).mkdir()
    (folder / "bin" / "scale").write_text(f"#!/bin/sh\n{command}\n")
    (folder / "bin" / "scale").chmod(0o755)
    for step, key in module.keys("run").items():
        (folder / module.MARKER / step).write_text(key)
    return folder


def load_environment():
    """Load the set-up script as a module."""
    spec = importlib.util.spec_from_file_location("environment_under_test", ROOT / "requirements" / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_ready_environment_passes_everything_through(tmp_path):
    venv = ready_environment(tmp_path / "my env", 'echo "args: $*"; echo "on PATH: ${PATH%%:*}"; cat; echo bad >&2; exit 7')
    link = tmp_path / "elsewhere" / "scale"
    link.parent.mkdir()
    link.symlink_to(ROOT / "scale")
    variables = os.environ | {"SCALE_VENV": str(venv), "SCALE_PYTHON": sys.executable}
    result = subprocess.run([link, "train", "-o", "a b"], cwd=link.parent, env=variables, input=b"\x89HDF", capture_output=True)
    assert result.returncode == 7
    assert result.stdout == f"args: train -o a b\non PATH: {venv}/bin\n".encode() + b"\x89HDF"
    assert result.stderr == b"bad\n"


# the set-up, with its slow steps replaced by ones that only note that they were called


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """Return the set-up on a checkout of its own: ``module``, ``venv``, ``root`` and the ``calls`` of its steps."""
    module = load_environment()
    root, calls = tmp_path / "checkout", []
    shutil.copytree(ROOT / "requirements", root / "requirements")
    shutil.copy(ROOT / "pyproject.toml", root)
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "LOCKS", root / "requirements")
    monkeypatch.setattr(module, "NEEDED_GB", dict.fromkeys(module.NEEDED_GB, 0))

    def call(venv, python, *arguments, total=0):
        files = [Path(word.split("=")[1]).name for word in arguments if word.startswith("--requirement=")]
        other = "package" if "--editable" in arguments else "bytecode" if "-c" in arguments else "venv"
        calls.append(files[0] if files else other)

    monkeypatch.setattr(module, "call", call)
    return SimpleNamespace(module=module, venv=root / ".venv", root=root, calls=calls)


RUN = ["venv", "build.lock", "run.lock", "bytecode"]


def made(setup, group: str) -> list[str]:
    """Do a set-up; return the steps it did."""
    setup.calls.clear()
    setup.module.make(setup.venv, group)
    return list(setup.calls)


def test_a_complete_set_up_is_not_done_again(setup, capsys):
    assert made(setup, "run") == [*RUN, "package"]
    capsys.readouterr()
    assert made(setup, "run") == []
    assert capsys.readouterr() == ("", "")


def test_tests_add_to_the_environment_of_the_command(setup):
    made(setup, "run")
    assert made(setup, "test") == ["test.lock"]
    assert made(setup, "run") == []


@pytest.mark.parametrize(
    ("changed", "redone"),
    [
        ("requirements/run.lock", [*RUN, "test.lock", "package"]),
        ("requirements/build.lock", [*RUN, "test.lock", "package"]),
        ("requirements/test.lock", ["test.lock"]),
        ("pyproject.toml", ["package"]),
    ],
)
def test_what_changed_is_installed_anew(setup, changed, redone):
    made(setup, "test")
    with (setup.root / changed).open("a") as file:
        file.write("# changed\n")
    assert made(setup, "test") == redone
    assert made(setup, "test") == []


def test_a_moved_checkout_installs_the_package_from_its_new_place(setup, monkeypatch):
    made(setup, "run")
    new = setup.root.rename(setup.root.with_name("moved"))
    monkeypatch.setattr(setup.module, "ROOT", new)
    monkeypatch.setattr(setup.module, "LOCKS", new / "requirements")
    setup.venv = new / ".venv"
    assert made(setup, "run") == ["package"]


@pytest.mark.parametrize("at", [*RUN, "package"])
def test_an_interrupted_set_up_is_done_again(setup, monkeypatch, at):
    whole = setup.module.call

    def stop(venv, python, *arguments, total=0):
        whole(venv, python, *arguments, total=total)
        if setup.calls[-1] == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(setup.module, "call", stop)
    with pytest.raises(KeyboardInterrupt):
        made(setup, "run")
    monkeypatch.setattr(setup.module, "call", whole)
    assert made(setup, "run") == (["package"] if at == "package" else [*RUN, "package"])


def test_leftovers_of_the_old_environment_are_gone(setup):
    made(setup, "run")
    stray = setup.venv / "old_package.py"
    stray.touch()
    with (setup.root / "requirements" / "run.lock").open("a") as file:
        file.write("# changed\n")
    made(setup, "run")
    assert not stray.exists()


def test_set_ups_at_the_same_time_make_one_environment(setup, monkeypatch, capsys):
    quick, entered = setup.module.call, threading.Event()

    def slow(*arguments, **options):
        entered.set()
        threading.Event().wait(0.2)
        quick(*arguments, **options)

    monkeypatch.setattr(setup.module, "call", slow)
    threads = [threading.Thread(target=setup.module.make, args=(setup.venv, "run")) for _ in range(3)]
    for thread in threads:
        thread.start()
        assert entered.wait(10)
    for thread in threads:
        thread.join(30)
    assert setup.calls == [*RUN, "package"]
    assert capsys.readouterr().err.count("waiting for another set-up") == 2


def test_a_folder_that_is_not_ours_is_left_alone(setup):
    setup.venv.mkdir()
    (setup.venv / "thesis.tex").write_text("years of work")
    with pytest.raises(setup.module.SetupError, match=r"was not made by this set-up; move it away, or .* SCALE_VENV"):
        made(setup, "run")
    assert setup.calls == []
    assert (setup.venv / "thesis.tex").read_text() == "years of work"


def test_a_python_without_venv_names_the_package_to_install(setup, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ensurepip" else real(name, *a))
    package = f"python{VERSION}-venv"
    with pytest.raises(setup.module.SetupError, match=rf"lacks venv or ensurepip; .*apt install {package}"):
        made(setup, "run")
    assert not setup.venv.exists()


def test_a_platform_without_wheels_is_said_before_any_download(setup, monkeypatch):
    monkeypatch.setattr(setup.module.platform, "machine", lambda: "riscv64")
    with pytest.raises(setup.module.SetupError, match=r"this is \w+ riscv64; expected one of Linux x86_64"):
        made(setup, "run")
    assert setup.calls == []


def test_a_full_disk_is_said_before_any_download(setup, monkeypatch):
    monkeypatch.setattr(setup.module, "NEEDED_GB", dict.fromkeys(setup.module.NEEDED_GB, 10**9))
    with pytest.raises(setup.module.SetupError, match=r"has [0-9.]+ GB free; expected 1000000000 GB; .*SCALE_VENV"):
        made(setup, "run")
    assert setup.calls == []


def test_a_step_that_fails_shows_its_last_words_and_reads_nothing(tmp_path, capfd):
    module = load_environment()
    (tmp_path / module.MARKER).mkdir()
    script = "import sys; print('left to read:', repr(sys.stdin.read())); print('no such hash'); sys.exit(3)"
    with pytest.raises(module.SetupError, match=r"the set-up failed, see above and .*the next call starts over"):
        module.call(tmp_path, sys.executable, "-c", script)
    out, err = capfd.readouterr()
    assert out == ""
    assert "left to read: ''" in err
    assert "no such hash" in err
