"""Make the environment that ``./scale`` and ``./test`` run in, then run the command there.

Only the standard library: nothing is installed yet. Everything said goes to stderr and stdin is
left alone, since ``./scale prepare a.h5ad | ./scale train`` may start several set-ups at once, with
data on the pipe.

The environment is made in steps, each with a key: what it was made from. A key is written down when
its step is complete, so an interrupted set-up is done again, and a changed lock is installed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "requirements"
PLATFORMS = (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64"))
# while setting up; PyTorch brings its CUDA libraries on Linux
NEEDED_GB = {"Linux": 10, "Darwin": 3}
MARKER = "made-by-scale-toolkit"
RECIPE = "1"  # to be raised when the steps below change what they make of the same locks

# Every file is checked against its hash. What pip resolves is already resolved, so it has to
# add nothing of its own.
PIP = [
    "-m",
    "pip",
    "install",
    "--no-deps",
    "--no-input",
    "--no-user",
    "--progress-bar=off",
    "--no-warn-script-location",
]
PIP += ["--disable-pip-version-check", "--no-compile"]
LOCKED = [*PIP, "--require-hashes", "--only-binary=:all:"]
# episcanpy is published as source only; the build tools are there already, from build.lock.
FROM_SOURCE = ["--no-binary=episcanpy", "--no-build-isolation", "--use-pep517"]


class SetupError(Exception):
    """One line for the user."""


def say(text: str) -> None:
    """Tell the user one line."""
    print(f"scale: {text}", file=sys.stderr, flush=True)


def digest(*parts: str | Path) -> str:
    """Return a key of texts and of files' contents."""
    key = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode()
        key.update(hashlib.sha256(content).digest())
    return key.hexdigest()


def keys(group: str) -> dict[str, str]:
    """Return the steps that `group` needs, in order, each with its key."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    steps = {"run": digest(RECIPE, version, LOCKS / "build.lock", LOCKS / "run.lock")}
    if group == "test":
        steps["test"] = digest(LOCKS / "test.lock")
    return steps | {"package": digest(str(ROOT), ROOT / "pyproject.toml")}


def is_done(venv: Path, step: str, key: str) -> bool:
    """Whether a step is complete and was made from the same things."""
    try:
        return (venv / MARKER / step).read_text() == key
    except OSError:
        return False


def check(venv: Path) -> None:
    """Raise `SetupError` where the set-up cannot work, before anything is downloaded."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) not in PLATFORMS:
        known = ", ".join(" ".join(pair) for pair in PLATFORMS)
        raise SetupError(
            f"this is {system} {machine}; expected one of {known}, for which the "
            "dependencies are published"
        )
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise SetupError(
            f"{sys.executable} lacks venv or ensurepip; install them (Debian, Ubuntu: "
            f"apt install {package})"
        )
    if venv.exists() and any(venv.iterdir()) and not (venv / MARKER).is_dir():
        raise SetupError(
            f"{venv} was not made by this set-up; move it away, or name another "
            "folder with SCALE_VENV"
        )


def check_space(venv: Path) -> None:
    """Raise `SetupError` where the disk is too full for a new environment."""
    free, needed = shutil.disk_usage(venv.parent).free / 1e9, NEEDED_GB[platform.system()]
    if free < needed:
        raise SetupError(
            f"{venv.parent} has {free:.1f} GB free; expected {needed} GB; name a "
            "roomier folder with SCALE_VENV"
        )


def call(venv: Path, python: str | Path, *arguments: str, total: int = 0) -> None:
    """Run Python with output to the log, and on a terminal tell which package it is at."""
    # pip keeps all wheels there until the last is here: too much for many a /tmp
    temporary = venv / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {"TMPDIR": str(temporary), **os.environ}
    environment.pop("PYTHONPATH", None)
    log, count, start = venv / MARKER / "log", 0, time.monotonic()
    with log.open("a") as out:
        command = [str(python), *arguments]
        print("$", *command, file=out, flush=True)
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
        ) as child:
            for line in child.stdout:
                out.write(f"{time.monotonic() - start:6.1f} {line}")
                if sys.stderr.isatty() and (package := re.match(r"Collecting ([^ =]+)", line)):
                    count += 1
                    print(
                        f"\r\033[Kscale: {count} of at most {total}: {package[1]}",
                        end="",
                        file=sys.stderr,
                        flush=True,
                    )
    if count:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if child.returncode:
        last = "".join(log.read_text().splitlines(keepends=True)[-12:])
        print(last, end="", file=sys.stderr)
        raise SetupError(f"the set-up failed, see above and {log}; the next call starts over")
    shutil.rmtree(temporary, ignore_errors=True)


def install(venv: Path, lock: str, *options: str) -> None:
    """Install a lock."""
    total = len(re.findall(r"^\w", (LOCKS / lock).read_text(), re.MULTILINE))
    call(
        venv,
        venv / "bin" / "python",
        *LOCKED,
        *options,
        f"--requirement={LOCKS / lock}",
        total=total,
    )


def make_run(venv: Path) -> None:
    """Make the environment anew, with what the package needs."""
    say(f"setting up {venv}: about 3 GB to download on Linux, once")
    check_space(venv)
    if venv.exists():
        shutil.rmtree(venv)
    (venv / MARKER).mkdir(parents=True)
    call(venv, sys.executable, "-m", "venv", str(venv))
    install(venv, "build.lock")
    install(venv, "run.lock", *FROM_SOURCE)
    # On all cores at once, which pip cannot; a package's templates that are not Python are passed
    # over. Without it the first call takes twice as long, and every call where the environment is
    # read-only afterwards.
    compile_all = (
        "import compileall, sysconfig; "
        "compileall.compile_dir(sysconfig.get_path('purelib'), quiet=2, workers=0)"
    )
    call(venv, venv / "bin" / "python", "-c", compile_all)


def make_test(venv: Path) -> None:
    """Add what the tests need."""
    say("adding what the tests need")
    install(venv, "test.lock", *FROM_SOURCE)


def make_package(venv: Path) -> None:
    """Install the package itself, to be run from the checkout; needs no network."""
    call(
        venv,
        venv / "bin" / "python",
        *PIP,
        "--no-index",
        "--no-build-isolation",
        "--editable",
        str(ROOT),
    )


@contextlib.contextmanager
def alone(venv: Path):
    """Keep a second set-up of the same environment waiting; the lock dies with the process."""
    import fcntl

    venv.parent.mkdir(parents=True, exist_ok=True)
    with venv.with_name(venv.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another set-up of {venv}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield


def make(venv: Path, group: str) -> None:
    """Do the steps that are missing."""
    start, done = time.monotonic(), False
    check(venv)
    with alone(venv):
        for step, key in keys(group).items():
            if is_done(venv, step, key):
                continue
            {"run": make_run, "test": make_test, "package": make_package}[step](venv)
            written = venv / MARKER / f"{step}.new"
            written.write_text(key)
            written.rename(venv / MARKER / step)
            done = True
    if done:
        say(f"the environment is ready after {time.monotonic() - start:.0f} s")


def main() -> None:
    """Make what is missing, then become the command."""
    group, command, *arguments = sys.argv[1:]
    venv = Path(os.environ["SCALE_VENV"]).absolute()
    if not all(is_done(venv, step, key) for step, key in keys(group).items()):
        # it is about to be removed: go on with the Python it was made from
        if Path(sys.executable).is_relative_to(venv):
            os.execv(sys._base_executable, [sys._base_executable, *sys.orig_argv[1:]])
        try:
            make(venv, group)
        except SetupError as error:
            say(str(error))
            sys.exit(1)
        except KeyboardInterrupt:
            say("interrupted; the next call sets up again")
            sys.exit(130)
        except OSError as error:
            say(f"the set-up failed: {error}")
            sys.exit(1)
    os.environ["VIRTUAL_ENV"] = str(venv)
    os.environ["PATH"] = f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    program = venv / "bin" / command
    os.execv(program, [str(program), *arguments])


if __name__ == "__main__":
    main()
