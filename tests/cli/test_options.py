"""Configs as command-line options."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from scale_toolkit.cli.options import Options, command, flags, on_gpu
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import Config, TrainConfig, option
from scale_toolkit.errors import InputError, OptionError, UsageError


@dataclass(frozen=True)
class Toy(Config):
    """Every kind of field."""

    whole: int = option(3, "A whole number.", flags=("-w",), minimum=1)
    real: float | None = option(None, "A number.", minimum=0, maximum=1)
    word: str = option("red", "A colour.", choices=("red", "blue"))
    name: str | None = option(None, "A name.")
    yes_no: bool = option(False, "A flag.")
    widths: tuple[int, ...] | None = option(None, "Whole numbers.", minimum=1)
    names: tuple[str, ...] = option((), "Names.", metavar="A,B")


def call(words, how=None):
    seen = []
    annotation = Toy if how is None else Annotated[Toy, how]

    def body(*, toy, talk) -> None:
        seen.append((toy, talk))

    body.__annotations__ = {"toy": annotation, "talk": Talk}
    app = typer.Typer(context_settings={"token_normalize_func": lambda word: word.replace("_", "-")})
    app.command()(command(body))
    result = CliRunner().invoke(app, words)
    return result, seen


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("", "whole", 3),
        ("--whole 5", "whole", 5),
        ("-w 5", "whole", 5),
        ("--real 0.5", "real", 0.5),
        ("--word blue", "word", "blue"),
        ("--word Blue", "word", "blue"),
        ("--name Some_One", "name", "Some_One"),
        ("--yes-no", "yes_no", True),
        ("--yes_no", "yes_no", True),
        ("", "widths", None),
        ("--widths 1024,128", "widths", (1024, 128)),
        ("--widths 1024 --widths 128", "widths", (1024, 128)),
        ("--widths=", "widths", ()),
        ("--names a_b,c", "names", ("a_b", "c")),
    ],
)
def test_words_reach_the_config(words, field, value):
    result, seen = call(words.split())
    assert result.exit_code == 0, result.stderr
    assert getattr(seen[0][0], field) == value
    assert dataclasses.replace(seen[0][0], **{field: getattr(Toy(), field)}) == Toy()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--whole 0", "error: --whole is 0; expected 1 or more"),
        ("--real 2", "error: --real is 2; expected 1 or less"),
        ("--real nan", "error: --real is nan; expected a number"),
        ("--word green", "error: --word is 'green'; expected one of red, blue"),
        ("--yes-no --widths 0", "error: --widths is 0; expected 1 or more"),
        ("--widths 3,x", "error: --widths is '3,x'; expected integers separated by commas"),
    ],
)
def test_a_value_out_of_range_is_named_as_typed(words, message):
    result, seen = call(words.split())
    assert (result.exit_code, result.stderr.strip(), seen) == (2, message, [])


def test_a_command_may_rename_and_leave_out_fields():
    how = Options(only=("whole", "word"), excluded=("word",), names={"whole": ("--size",)})
    result, seen = call(["--size", "7"], how)
    assert (result.exit_code, seen[0][0]) == (0, Toy(whole=7))
    assert call(["--size", "0"], how)[0].stderr == "error: --size is 0; expected 1 or more\n"
    assert call(["--word", "red"], how)[0].exit_code == 2


def test_messages_options_reach_the_talk():
    for words, expected in [([], (False, False, False)), (["--quiet", "--json-logs", "--debug"], (True, True, True))]:
        talk = call(words)[1][0][1]
        assert (talk.quiet, talk.json_logs, talk.debug) == expected


def test_help_shows_every_field_with_its_help_range_and_default():
    text = " ".join(call(["--help"])[0].output.split())
    for spec in dataclasses.fields(Toy):
        assert flags(spec, Options())[0] in text
        assert spec.metadata["help"] in text
    for part in ("INT >=1", "FLOAT 0..1", "[red|blue]", "A,B", "[default: 3]", "[default: red]"):
        assert part in text


@pytest.mark.parametrize(("gpu", "device"), [(None, "auto"), ("", "cuda"), ("1", "cuda:1")])
def test_gpu_is_a_device(gpu, device):
    assert on_gpu(TrainConfig(), gpu).device == device
    if gpu is not None:
        assert on_gpu(TrainConfig(device=device), gpu).device == device


def test_gpu_and_another_device_contradict():
    with pytest.raises(UsageError, match="both --gpu and --device cpu; expected one of the two"):
        on_gpu(TrainConfig(device="cpu"), "")
    with pytest.raises(UsageError, match="--gpu is 'x'; expected nothing or the number of a GPU"):
        on_gpu(TrainConfig(), "x")


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (OptionError("yes_no is True", "False"), "error: --yes-no is True; expected False\n", 2),
        (InputError("yes_no is a column", "none"), "error: yes_no is a column; expected none\n", 1),
    ],
)
def test_an_option_error_of_a_stage_is_spelled_as_typed(error, line, code):
    def body(*, toy, talk) -> None:
        raise error

    body.__annotations__ = {"toy": Toy, "talk": Talk}
    app = typer.Typer()
    app.command()(command(body))
    result = CliRunner().invoke(app, [])
    assert (result.exit_code, result.stderr) == (code, line)
