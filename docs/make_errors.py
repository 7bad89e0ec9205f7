"""Make docs/errors.md: every message of an error, where it is raised, and a test that triggers it.

SCALE_ERRORS_HOLD=1 ./test                 the tests that docs/errors.md names must trigger what they are named for
SCALE_ERRORS_SEEN=seen ./test              note which test triggers which
python docs/make_errors.py seen            make the page from those notes
python docs/make_errors.py                 make it anew after a message changed, with the tests it names
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE, PAGE = ROOT / "scale_toolkit", ROOT / "docs" / "errors.md"
CODES = {"UsageError": 2, "OptionError": 2}

HEAD = """# Every error, and a test that triggers it

Made by `python docs/make_errors.py`. An error is one line on stderr: what was found; what was expected; what to do next.
`…` stands for a name or a figure; *none*: no test is noted. `--debug` adds the traceback, `--json-logs` makes it JSON. Exit
codes: **0** good, **1** the data or the work failed, **2** the words of the call are off, **130** interrupted (SIGINT), **141**
the reader of a pipe has gone, **143** ended by SIGTERM.

What the operating system refuses (a full disk, no permission) is told in its words with the path (`cli/outcome.py`); so is
running out of memory. Anything else is `unexpected …`, which is a bug: please report it.

| Found | Expected | Do | Exit | In | Test |
|---|---|---|---|---|---|
"""


class Site(NamedTuple):
    """A place that makes an error."""

    file: str
    first: int
    last: int
    error: str
    found: str
    expected: str
    do: str

    @property
    def key(self) -> str:
        """What stays when lines move."""
        return f"{self.file} | {self.found} | {self.expected} | {self.do}"


def error_names() -> set[str]:
    """The classes of scale_toolkit/errors.py that are errors."""
    tree = ast.parse((PACKAGE / "errors.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)} - {"ScaleWarning"}


def sites() -> list[Site]:
    """Every call of an error class in the package."""
    names, found = error_names(), []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                texts = [_text(argument) for argument in node.args] + [""] * 3
                for keyword in node.keywords:
                    texts[["found", "expected", "do"].index(keyword.arg or "found")] = _text(keyword.value)
                file = path.relative_to(PACKAGE).as_posix()
                found.append(Site(file, node.lineno, node.end_lineno or node.lineno, node.func.id, *texts[:3]))
    return sorted(found)


def _text(node: ast.expr) -> str:
    """The words of an argument, an ellipsis for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.IfExp):
        return f"{_text(node.body)} / {_text(node.orelse)}"
    return "…"


def triggers() -> dict[str, str]:
    """Site -> test, as the page has it."""
    if not PAGE.exists():
        return {}
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 6 and cells[5].startswith("`"):
            file = cells[4].strip("`")
            found[f"{file} | {cells[0]} | {cells[1]} | {cells[2]}"] = cells[5].strip("`")
    return found


def page(tests: dict[str, str]) -> str:
    """The page, with the test of each site."""
    rows = []
    for site in dict.fromkeys(site._replace(first=0, last=0) for site in sites()):
        test = tests.get(_cell_key(site), "")
        cells = [*map(_cell, (site.found, site.expected, site.do)), str(CODES.get(site.error, 1)), f"`{site.file}`"]
        rows.append("| " + " | ".join([*cells, f"`{_cell(test)}`" if test else "none"]) + " |")
    return HEAD + "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _cell_key(site: Site) -> str:
    return " | ".join([site.file, *(_cell(text).replace("\\|", "|") for text in (site.found, site.expected, site.do))])


def seen(folder: Path) -> dict[str, str]:
    """Site -> the test with the shortest name that was seen to trigger it."""
    found: dict[str, str] = {}
    for notes in sorted(folder.glob("*.json")):
        for key, tests in json.loads(notes.read_text(encoding="utf-8")).items():
            found[key] = min([*tests, *([found[key]] if key in found else [])], key=lambda test: (len(test), test))
    return found


def lookup() -> dict[str, list[tuple[int, int, str]]]:
    """File -> (first line, last line, site's name on the page), to find a site by where an error was made."""
    table: dict[str, list[tuple[int, int, str]]] = {}
    for site in sites():
        table.setdefault(site.file, []).append((site.first, site.last, _cell_key(site)))
    return table


if __name__ == "__main__":
    known = triggers()
    if len(sys.argv) > 1:
        known |= seen(Path(sys.argv[1]))
    PAGE.write_text(page(known), encoding="utf-8")
    missing = [key for key in dict.fromkeys(map(_cell_key, sites())) if key not in known]
    print(f"{len(set(map(_cell_key, sites())))} messages, {len(missing)} without a test", *missing, sep="\n  ")
