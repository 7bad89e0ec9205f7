"""Make docs/errors.md, the page of every error message, from the source.

::

    python docs/make_errors.py             # after a message has changed
    SCALE_ERRORS_SEEN=seen ./test [TEST]   # note which test triggers which message
    python docs/make_errors.py seen        # and add those notes to the record
    SCALE_ERRORS_HOLD=1 ./test             # hold the tests to the record

The record, tests/error_triggers.tsv, names for each message a test that triggers it. A message
whose words have changed, or that has moved to another file, keeps its test.
"""

from __future__ import annotations

import ast
import csv
import difflib
import json
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE, PAGE = ROOT / "scale_toolkit", ROOT / "docs" / "errors.md"
RECORD = ROOT / "tests" / "error_triggers.tsv"
CODES = {"UsageError": 2, "OptionError": 2}

HEAD = """# Error messages

An error is one line on stderr with up to three parts: what was found; what was expected; what to do next. `…` stands for a
name or a number. `--debug` adds the traceback, `--json-logs` prints JSON.

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | the data are not usable or the work failed |
| 2 | invalid command line or option |
| 130 | interrupted (SIGINT) |
| 141 | the reader of a pipe has gone |
| 143 | ended by SIGTERM |

If the operating system refuses something (full disk, missing permission, out of memory), its own message is shown with the
path. Anything else starts with `unexpected`, which is a bug: please report it.

This page is generated from the source.
"""

#: First folder or file of the package -> heading; in this order.
CHAPTERS = {
    "cli": "Command line",
    "config.py": "Options",
    "io": "Reading and writing files",
    "stages": "Stages",
    "model": "Models",
    "core": "Data",
    "plot": "Figures",
    "report": "Report",
    "api.py": "Python: the model object",
    "": "Python: functions",
}


class Site(NamedTuple):
    """A line that raises an error."""

    file: str
    first: int
    last: int
    error: str
    problem: str
    expected: str
    do: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What stays when lines move."""
        return (self.file, *(_cell(text) for text in (self.problem, self.expected, self.do)))


Key = tuple[str, str, str, str]


def error_names() -> set[str]:
    """Return the classes of scale_toolkit/errors.py that are errors."""
    tree = ast.parse((PACKAGE / "errors.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)} - {"ScaleWarning"}


def sites() -> list[Site]:
    """Return every call of an error class in the package."""
    names = error_names()
    calls = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in names
            ):
                texts = [_text(argument) for argument in node.args] + [""] * 3
                for keyword in node.keywords:
                    texts[["found", "expected", "do"].index(keyword.arg or "found")] = _text(
                        keyword.value
                    )
                file = path.relative_to(PACKAGE).as_posix()
                calls.append(
                    Site(
                        file, node.lineno, node.end_lineno or node.lineno, node.func.id, *texts[:3]
                    )
                )
    return sorted(calls)


def _text(node: ast.expr) -> str:
    """Return the words of an argument, with an ellipsis for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            _text(value) if isinstance(value, ast.Constant) else "…" for value in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.IfExp):
        return f"{_text(node.body)} / {_text(node.orelse)}"
    return "…"


def _cell(text: str) -> str:
    return " ".join(text.split())


def triggers() -> dict[Key, str]:
    """Return message -> test, as recorded."""
    with RECORD.open(encoding="utf-8", newline="") as lines:
        return {
            tuple(row[:4]): row[4]
            for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        }  # type: ignore[misc]


def write_triggers(record: dict[Key, str]) -> None:
    """Write the record, sorted."""
    lines = ["\t".join([*key, test]) + "\n" for key, test in sorted(record.items())]
    RECORD.write_text("".join(lines), encoding="utf-8")


def carry_over(record: dict[Key, str], current: list[Key]) -> dict[Key, str]:
    """Return the record for the messages of today.

    Parameters
    ----------
    record
        Message -> test.
    current
        Messages in the source, file by file, in the order of their lines.

    Returns
    -------
    Message -> test, for every message that is unchanged, has moved to another file, or is
    much like one that has disappeared.
    """
    result = {key: record[key] for key in current if key in record}
    by_words = {key[1:]: test for key, test in record.items()}
    for key in current:
        if key not in result and key[1:] in by_words:
            result[key] = by_words[key[1:]]
    lost = {
        key: test
        for key, test in record.items()
        if key not in current and key[1:] not in {k[1:] for k in result}
    }
    for same_file in (True, False):
        for key in current:
            if key not in result:
                words = {
                    " ".join(old[1:]): old for old in lost if old[0] == key[0] or not same_file
                }
                closest = difflib.get_close_matches(" ".join(key[1:]), words, n=1, cutoff=0.6)
                if closest:
                    result[key] = lost.pop(words[closest[0]])
    return result


def page() -> str:
    """Return the page: a table for each part of the package."""
    rows: dict[str, dict[str, None]] = {}
    for site in sites():
        first = site.file.partition("/")[0]
        heading = CHAPTERS.get(first, CHAPTERS[""])
        if first == "stages":
            heading = (
                f"{CHAPTERS['stages']}: "
                f"{site.file.partition('/')[2].removesuffix('.py').strip('_').replace('_', '-')}"
            )
        cells = [text.replace("|", "\\|") for text in site.key[1:]]
        rows.setdefault(heading, {})[
            "| " + " | ".join([*cells, str(CODES.get(site.error, 1))]) + " |"
        ] = None
    order = list(CHAPTERS.values())
    headings = sorted(
        rows,
        key=lambda heading: (
            order.index(heading.partition(": ")[0] if "Stages" in heading else heading),
            heading,
        ),
    )
    table = "| Found | Expected | What to do | Exit code |\n|---|---|---|---|\n"
    return HEAD + "".join(
        f"\n## {heading}\n\n{table}" + "\n".join(rows[heading]) + "\n" for heading in headings
    )


def seen(folder: Path) -> dict[Key, str]:
    """Return message -> the test with the shortest name that triggered it."""
    result: dict[Key, str] = {}
    for notes in sorted(folder.glob("*.json")):
        for line, tests in json.loads(notes.read_text(encoding="utf-8")).items():
            file, problem, expected, do = line.split("\t")
            key = file, problem, expected, do
            known = [result[key]] if key in result else []
            result[key] = min([*tests, *known], key=lambda test: (len(test), test))
    return result


def lookup() -> dict[str, list[tuple[int, int, Key]]]:
    """Return file -> (first line, last line, message), to identify a message by the line that
    raised it.
    """
    table: dict[str, list[tuple[int, int, Key]]] = {}
    for site in sites():
        table.setdefault(site.file, []).append((site.first, site.last, site.key))
    return table


if __name__ == "__main__":
    messages = list(dict.fromkeys(site.key for site in sites()))
    new_record = carry_over(triggers(), messages)
    if len(sys.argv) > 1:
        new_record |= {
            key: test for key, test in seen(Path(sys.argv[1])).items() if key not in new_record
        }
    write_triggers(new_record)
    PAGE.write_text(page(), encoding="utf-8")
    missing = ["; ".join(key) for key in messages if key not in new_record]
    print(f"{len(messages)} messages, {len(missing)} without a test", *missing, sep="\n  ")
