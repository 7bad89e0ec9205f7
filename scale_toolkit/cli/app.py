"""The ``scale`` command: its subcommands, ``--version``, and errors in the command line."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from scale_toolkit import __version__
from scale_toolkit.cli import processes
from scale_toolkit.cli.annotate import annotate
from scale_toolkit.cli.arguments import normalised
from scale_toolkit.cli.caches import give_caches_a_place
from scale_toolkit.cli.choose_k import choose_k
from scale_toolkit.cli.cluster import cluster
from scale_toolkit.cli.demo import demo
from scale_toolkit.cli.doublets import doublets
from scale_toolkit.cli.embed import embed
from scale_toolkit.cli.export import export
from scale_toolkit.cli.genes import genes
from scale_toolkit.cli.help import Command, Group, example
from scale_toolkit.cli.impute import impute
from scale_toolkit.cli.map import map as map_command
from scale_toolkit.cli.markers import markers
from scale_toolkit.cli.outcome import outcome
from scale_toolkit.cli.plan import plan
from scale_toolkit.cli.plot import app as plot
from scale_toolkit.cli.prepare import prepare
from scale_toolkit.cli.report import report
from scale_toolkit.cli.run import run
from scale_toolkit.cli.select_peaks import select_peaks
from scale_toolkit.cli.simulate import simulate
from scale_toolkit.cli.talk import Talk
from scale_toolkit.cli.train import train
from scale_toolkit.cli.verify import verify


def spelling(word: str) -> str:
    """Read ``--encode_dim`` as ``--encode-dim`` and ``select_peaks`` as ``select-peaks``."""
    return word.replace("_", "-")


app = typer.Typer(
    name="scale",
    help="Cluster and impute single-cell ATAC-seq data with SCALE, a Gaussian-mixture variational "
    "autoencoder.",
    epilog="Stages read h5ad from a file or standard input: scale prepare cells.h5ad | scale train "
    "| scale cluster -o out.h5ad",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": spelling},
)

_PANELS = {
    "Whole analyses": (run, demo),
    "Stages": (
        prepare,
        select_peaks,
        train,
        impute,
        embed,
        doublets,
        map_command,
        choose_k,
        cluster,
        markers,
        annotate,
        genes,
    ),
    "Data": (simulate, export),
    "Checks": (plan, verify),
    "Figures": (report,),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        _name = _command.__name__.replace("_", "-")
        app.command(_name, cls=Command, epilog=example(_name), rich_help_panel=_panel)(_command)

app.add_typer(plot, name="plot", rich_help_panel="Figures")


def _version(asked: bool) -> None:
    if asked:
        print(f"scale {__version__}")
        raise typer.Exit


@app.callback()
def scale(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Cluster and impute single-cell ATAC-seq data with SCALE, a Gaussian-mixture variational
    autoencoder.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run ``scale`` with `arguments` (the process's own by default), and exit with its code.

    Exit codes: 0 success, 1 the data or the work failed, 2 invalid command line, 130 interrupted.
    """
    words = processes.words = sys.argv[1:] if arguments is None else arguments
    # SIGTERM raises SystemExit, so that temporary files are removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # OpenMP threads that wait by spinning take the core that their own main thread needs as soon as
    # anything else runs on the machine: a training of 7 s took 30 to 54 s beside one busy process
    # (benchmarks/RESULTS.md). Read once, when torch or scikit-learn is first loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    give_caches_a_place()
    talk = Talk(json_logs="--json-logs" in map(spelling, words), debug="--debug" in words)
    try:
        with outcome(talk):
            processes.check_alone()
            code = app(normalised(words), prog_name="scale", standalone_mode=False)
    except typer.Exit as end:
        code = end.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def scale_py() -> None:
    """Run ``SCALE.py``: the same as ``scale run``."""
    main(["run", *sys.argv[1:]])
