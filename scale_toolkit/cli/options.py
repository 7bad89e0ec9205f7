"""Commands from configs: an option is defined once, in `scale_toolkit.config`.

The parameters of a command are what it needs::

    @command
    def cluster(source: Input = "-", *, config: ClusterConfig, talk: Talk) -> None:

`command` turns every parameter annotated with a `Config` into one command-line option per field,
and `Talk` into ``--quiet``, ``--json-logs`` and ``--debug``; the function receives a validated
config and the object for messages. Every command has ``--memory`` (`memory.limited_memory`).
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from scale_toolkit.cli.outcome import outcome, spelled
from scale_toolkit.cli.spelling import INPUTS
from scale_toolkit.cli.talk import Talk
from scale_toolkit.errors import OptionError, UsageError
from scale_toolkit.memory import limited_memory
from scale_toolkit.validation import Config, field_types


def given(*names: str, help: str, metavar: str | None = None, panel: str | None = None) -> Any:
    """Declare an option that is False or absent by default."""
    return typer.Option(
        *names, help=help, metavar=metavar, rich_help_panel=panel, show_default=False
    )


Input = Annotated[
    str,
    typer.Argument(metavar="INPUT", help="h5ad file, or - for standard input.", show_default=True),
]
Output = Annotated[
    str, typer.Option("-o", "--output", metavar="FILE", help="h5ad file, or - for standard output.")
]
Gpu = Annotated[
    str | None,
    given(
        "--gpu",
        "-g",
        metavar="[N]",
        help="Train on a GPU, the N-th if there are several: --device cuda or cuda:N. An error "
        "if there is none.",
    ),
]
Pretrain = Annotated[
    Path | None,
    given(
        "--pretrain",
        metavar="FILE",
        help="Encode with this model, of --model or of SCALE 1.1.2; train nothing.",
    ),
]
Modality = Annotated[
    str | None,
    given(
        "--modality",
        metavar="NAME",
        help="Of an h5mu; left out, the one that is named atac or peaks.",
    ),
]
PretrainPeaks = Annotated[
    Path | None,
    given(
        "--pretrain-peaks",
        metavar="FILE",
        help="The adata.h5ad of the SCALE 1.1.2 run that --pretrain comes from, or a file with a "
        "peak a line: its model.pt "
        "names no peaks. Left out, the adata.h5ad beside --pretrain.",
    ),
]
#: Value of ``--gpu`` without a number, from `arguments.normalised`.
BARE_GPU = ""


@dataclasses.dataclass(frozen=True)
class Options:
    """How a command shows a config: ``config: Annotated[TrainConfig, Options(panel="Model")]``.

    Parameters
    ----------
    panel
        Title of the options' group in the help.
    only, excluded
        The fields that are shown or hidden, if not all are shown: the command sets the others, or
        leaves them at their defaults.
    names
        Fields with another name on this command, with any further flags: ``{"method":
        ("--embed",)}``.
    """

    panel: str | None = None
    only: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    names: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def command(body: Callable[..., None]) -> Callable[..., None]:
    """Make a Typer command of `body`: its configs become options, its errors one line on stderr
    and an exit code.
    """
    hints = typing.get_type_hints(body, include_extras=True)
    configs: dict[str, tuple[type[Config], Options]] = {}
    plain: list[inspect.Parameter] = []
    options: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(body).parameters.items():
        kind, display = _parts(hints[name])
        if isinstance(kind, type) and issubclass(kind, Config):
            configs[name] = (kind, display)
            options += [_parameter(name, spec, kind, display) for spec in _shown(kind, display)]
        elif kind is not Talk:
            plain.append(
                parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            )

    spellings = _spellings(configs) | {"memory": "--memory"}

    def run(**words: Any) -> None:
        talk = Talk(
            quiet=words.pop("quiet"), json_logs=words.pop("json_logs"), debug=words.pop("debug")
        )
        memory = words.pop("memory")
        talk.label = body.__name__.replace("_", "-")
        talk.spellings = INPUTS | spellings
        with outcome(talk, spellings), talk.listening(), limited_memory(memory):
            built = {
                name: _build(name, kind, display, words)
                for name, (kind, display) in configs.items()
            }
            body(**words, **built, talk=talk)

    run.__name__, run.__doc__, run.__module__ = body.__name__, body.__doc__, body.__module__
    run.__signature__ = inspect.Signature([*plain, *options, _MEMORY, *_TALK])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in run.__signature__.parameters.values()}  # type: ignore[attr-defined]
    return run


def on_gpu(config: Any, gpu: str | None) -> Any:
    """Return a train config with the device of ``--gpu``."""
    if gpu is None:
        return config
    device = "cuda" if gpu == BARE_GPU else f"cuda:{gpu}"
    if gpu != BARE_GPU and not gpu.isdecimal():
        raise UsageError(
            f"--gpu is {gpu!r}", "nothing or the number of a GPU", "use --device for another device"
        )
    if config.device not in ("auto", device):
        raise UsageError(f"both --gpu and --device {config.device}", "one of the two", "drop --gpu")
    return dataclasses.replace(config, device=device)


def flags(spec: dataclasses.Field[Any], display: Options) -> tuple[str, ...]:
    """Return the command-line spellings of a field; the first is the one errors use.

    A switch that is on by default gets a second spelling that turns it off:
    ``--relative/--no-relative``.
    """
    long = "--" + spec.name.replace("_", "-")
    if spec.default is True:
        long = f"{long}/--no-{long[2:]}"
    return display.names.get(spec.name) or (long, *spec.metadata["flags"])


def _parts(hint: Any) -> tuple[Any, Options]:
    if typing.get_origin(hint) is Annotated:
        kind, *annotations = typing.get_args(hint)
        return kind, next(
            (annotation for annotation in annotations if isinstance(annotation, Options)), Options()
        )
    return hint, Options()


def _shown(kind: type[Config], display: Options) -> list[dataclasses.Field[Any]]:
    fields = dataclasses.fields(kind)
    return [
        spec
        for spec in fields
        if spec.name in (display.only or (spec.name,)) and spec.name not in display.excluded
    ]


def _parameter(
    name: str, spec: dataclasses.Field[Any], kind: type[Config], display: Options
) -> inspect.Parameter:
    """One field as a Typer option: its Python name carries the config's, so that two configs may
    share a field.
    """
    rule, (value, many, _) = spec.metadata, field_types(kind)[spec.name]
    settings: dict[str, Any] = {"help": rule["help"], "rich_help_panel": display.panel}
    if value is not bool:
        settings["metavar"] = rule["metavar"] or _metavar(value, many, rule)
    if many:
        settings["show_default"] = (
            ",".join(map(str, cast(tuple[Any, ...], spec.default or ()))) or False
        )
    annotation = list[str] if many else value
    optional = many or spec.default is None
    return inspect.Parameter(
        f"{name}__{spec.name}",
        inspect.Parameter.KEYWORD_ONLY,
        default=None if many else spec.default,
        annotation=Annotated[
            annotation | None if optional else annotation,
            typer.Option(*flags(spec, display), **settings),
        ],
    )


def _metavar(value: type, many: bool, rule: Any) -> str:
    """Return the form of a value: ``[umap|tsne]``, ``INT,INT``, ``FLOAT 0..1``; the config checks
    it.
    """
    if rule["choices"]:
        return f"[{'|'.join(rule['choices'])}]"
    word = {int: "INT", float: "FLOAT", str: "TEXT"}[value]
    low, high = (None if end is None else f"{end:g}" for end in (rule["minimum"], rule["maximum"]))
    limits = (
        f" {low}..{high}"
        if low and high and rule["maximum"] < 2**31
        else f" >={low}"
        if low
        else ""
    )
    return (f"{word},{word}" if many else word) + limits


def _build(name: str, kind: type[Config], display: Options, words: dict[str, Any]) -> Config:
    values = {}
    for spec in _shown(kind, display):
        value = words.pop(f"{name}__{spec.name}")
        item, many, _ = field_types(kind)[spec.name]
        if many:
            if not value:
                # an absent option has the default of the config
                continue
            value = tuple(_items(",".join(value), item, flags(spec, display)[0]))
        elif spec.metadata["choices"] and value is not None:
            # SCALE's users write UMAP and tSNE
            value = value.lower()
        values[spec.name] = value
    try:
        return kind(**values)
    except OptionError as error:
        # spelled for this config: another one of the command may have a field of the same name
        raise spelled(error, _spellings({name: (kind, display)})) from None


def _items(text: str, kind: type, flag: str) -> list[Any]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    try:
        return [kind(item) for item in items]
    except ValueError:
        raise OptionError(f"{flag} is {text!r}", "integers separated by commas") from None


def _spellings(configs: dict[str, tuple[type[Config], Options]]) -> dict[str, str]:
    """Map a field's name to its spelling on this command, for errors raised by a config or a
    stage.
    """
    pairs = [
        (spec, display) for kind, display in configs.values() for spec in dataclasses.fields(kind)
    ]
    return {spec.name: flags(spec, display)[0] for spec, display in pairs}


def _flag(name: str, spelling: str, help_text: str) -> inspect.Parameter:
    option = typer.Option(spelling, help=help_text, rich_help_panel="Messages")
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option]
    )


_MEMORY = inspect.Parameter(
    "memory",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        given(
            "--memory",
            metavar="SIZE",
            help="Keep memory below this, such as 4G: larger counts go to temporary files in "
            "TMPDIR; left out, below what is free.",
            panel="Resources",
        ),
    ],
)
_TALK = [
    _flag("quiet", "--quiet", "Show only warnings and errors."),
    _flag("json_logs", "--json-logs", "Messages as JSON, one object a line."),
    _flag("debug", "--debug", "Show tracebacks and other libraries' warnings."),
]
