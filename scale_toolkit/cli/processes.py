"""``--devices N``: start N processes of the same command on this machine, and watch them."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scale_toolkit.cli.outcome import INTERRUPTED
from scale_toolkit.errors import ProcessLostError, ScaleError, UsageError
from scale_toolkit.threads import available_cores

if TYPE_CHECKING:
    from scale_toolkit.config import TrainConfig

#: The words of this process's command line, as typed; set by `app.main`.
words: Sequence[str] = ()

#: Exit code of a process that lost another one, whose end is the reason to report.
LOST_ANOTHER = 75
#: Seconds that processes get to end by themselves once one has ended with an error.
SECONDS_TO_END = 10.0
_SECONDS_BETWEEN_LOOKS = 0.1


def check_alone() -> None:
    """Refuse commands but ``train`` in several processes of torchrun: each would do all of it."""
    name = next((word for word in words if not word.startswith("-")), "train")
    if "TORCHELASTIC_RUN_ID" not in os.environ or name == "train":
        return
    from scale_toolkit.stages.train_team import size_of_team

    if size_of_team() > 1:
        raise UsageError(
            f"scale {name} in {size_of_team()} processes",
            "scale train: the other commands work in one",
            "run it without torchrun",
        )


def check_several(source: str, config: TrainConfig, devices: int | None) -> None:
    """Raise what several processes cannot do.

    Parameters
    ----------
    source
        The input.
    config
        Options of ``train``.
    devices
        Of ``--devices``.
    """
    from scale_toolkit.io.files import existing_file, is_stream
    from scale_toolkit.stages.train_team import MEETING, check_team_options, size_of_team

    is_ours = MEETING in os.environ
    if devices is not None and devices > 1 and size_of_team() > 1 and not is_ours:
        raise UsageError(
            f"--devices {devices} in a process of torchrun",
            "one of the two",
            "drop --devices: torchrun has started the processes",
        )
    if is_stream(source) or not stat.S_ISREG(existing_file(source).stat().st_mode):
        raise UsageError(
            f"the input {source} cannot be read by several processes",
            "an h5ad file",
            "write the output of the command before to a file",
        )
    check_team_options(config)


@contextlib.contextmanager
def joined(config: TrainConfig) -> Iterator[tuple[Any, TrainConfig]]:
    """Join the processes of a training, and let one of them report an error that all have."""
    from scale_toolkit.stages.train_team import MEETING, joined_team

    try:
        with joined_team(config) as (team, team_config):
            yield team, team_config
    except ProcessLostError as error:
        if MEETING in os.environ:
            # the process that started this one says more
            raise typer.Exit(LOST_ANOTHER) from error
        raise
    except ScaleError as error:
        if error.reported:
            raise typer.Exit(error.exit_code) from error
        raise
    except KeyboardInterrupt:
        if os.environ["RANK"] == "0":
            raise
        raise typer.Exit(INTERRUPTED) from None


def run_processes(n: int, meeting: str, n_threads: int) -> int:
    """Run this process's command in `n` processes, and return the exit code.

    Parameters
    ----------
    n
        Number of processes; the first has this one's standard output.
    meeting
        Name of the environment variable with the path of a file in which they meet.
    n_threads
        Threads of all; 0: all cores of the job.

    Raises
    ------
    ProcessLostError
        A process was ended by a signal.
    """
    threads = str(max((n_threads or available_cores()) // n, 1))
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        shared = {
            "WORLD_SIZE": str(n),
            "LOCAL_WORLD_SIZE": str(n),
            "OMP_NUM_THREADS": threads,
            meeting: str(Path(folder) / "processes"),
        }
        # all are on this machine: nothing of them is reachable from another
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        shared |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
        command = [sys.executable, "-m", "scale_toolkit", *words]
        children: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(n):
                variables = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                children.append(
                    subprocess.Popen(
                        command,
                        env=variables,
                        stdin=subprocess.DEVNULL,
                        stdout=None if rank == 0 else subprocess.DEVNULL,
                    )
                )
            _wait(children)
        except KeyboardInterrupt:
            # the terminal interrupts the children too, and the first of them says so
            return INTERRUPTED
        finally:
            _end(children)
    return _outcome([child.returncode for child in children])


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended, or some seconds after the first has ended with an error."""
    while any(child.poll() is None for child in children):
        if any(child.returncode for child in children):
            deadline = time.monotonic() + SECONDS_TO_END
            while time.monotonic() < deadline and any(child.poll() is None for child in children):
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            return
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the processes that still run: politely, then not."""
    for end in (subprocess.Popen.terminate, subprocess.Popen.kill):
        running = [child for child in children if child.poll() is None]
        for child in running:
            end(child)
        for child in running:
            try:
                child.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                continue


def _outcome(codes: Sequence[int]) -> int:
    """Return the exit code of all: that of the process which ended for a reason of its own."""
    for rank, code in enumerate(codes):
        # one that we have ended has SIGTERM's code, after another's error
        if code < 0 and code != -signal.SIGTERM:
            name = signal.Signals(-code).name
            raise ProcessLostError(
                f"process {rank + 1} of {len(codes)} was ended by {name}",
                "all processes until the end",
                "check the memory of the machine (SIGKILL is often the kernel's, without memory), "
                "then run the same command again: with --checkpoint it goes on after the last "
                "checkpoint",
            )
    reasons = [code for code in codes if code not in (0, LOST_ANOTHER)]
    if not reasons and LOST_ANOTHER in codes:
        raise ProcessLostError(
            f"the {len(codes)} processes lost each other",
            "all processes until the end",
            "run the same command again: with --checkpoint it goes on after the last checkpoint",
        )
    return reasons[0] if reasons else 0
