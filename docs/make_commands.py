"""Write ``docs/commands.md`` from the app itself: ``python docs/make_commands.py``. A test fails
where the two differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from scale_toolkit.cli.app import app

PAGE = Path(__file__).with_name("commands.md")
_HEAD = """# Commands

Made from the app by `python docs/make_commands.py`; `scale COMMAND --help` shows the same. `_` and `-` are one in every name.
"""


def page() -> str:
    """Return the whole page as Markdown."""
    group = typer.main.get_command(app)
    sections = [_section(name, command) for name, command in commands(group)]
    return "\n".join([_HEAD, *sections])


def commands(group: Any, before: str = "") -> list[tuple[str, Any]]:
    """Return every command with its name; those of a group of commands follow one another:
    ``plot embedding``.
    """
    listed = []
    for name, command in group.commands.items():
        inside = hasattr(command, "commands")
        listed += commands(command, f"{before}{name} ") if inside else [(before + name, command)]
    return listed


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join(["scale", name, *(f"[{p.metavar}]" for p in arguments), "[OPTIONS]"])
    rows = [_row(p) for p in [*arguments, *(p for p in command.params if p not in arguments)]]
    table = ["| option | value | default | |", "|---|---|---|---|", *rows]
    return "\n".join(
        [
            f"## scale {name}",
            "",
            f"`{usage}`",
            "",
            " ".join(command.help.split()),
            "",
            *_example(command),
            *table,
            "",
        ]
    )


def _example(command: Any) -> list[str]:
    """Return the example of the command's help as a block of code."""
    return ["```sh", command.epilog.removeprefix("Example: "), "```", ""] if command.epilog else []


def _row(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = parameter.metavar if is_argument else ", ".join(parameter.opts)
    value = (
        ""
        if is_argument or getattr(parameter, "is_flag", False)
        else f"`{_cell(parameter.metavar or '')}`"
    )
    default = _default(parameter)
    return f"| `{names}` | {value} | {default} | {_cell(parameter.help or '')} |"


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if parameter.default is None or parameter.default is False or parameter.show_default is False:
        return ""
    return f"{parameter.default}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
