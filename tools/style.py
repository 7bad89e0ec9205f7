"""Measure how the code reads, and hold the files that already read well.

::

    python tools/style.py                  # what exceeds the record, and the figures
    python tools/style.py --all [FILE...]  # every finding, recorded or not
    python tools/style.py --shrink         # lower the record to what is left; it is never raised

Two findings are counted in each file: variables named by a pronoun, a preposition or a participle
instead of a noun (Python), and words to avoid (docstrings, messages and comments of Python; every
line of other text). `style_record.txt` lists the files that still have some, with the counts they
may not exceed. A file that is not listed may have none, unless it was split from one beside it.
The length of lines is for ruff, with `wrap.py`.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).with_name("style_record.txt")
KINDS = ("names", "words")

#: What the package may have at most (or at least): share of assignments to pronoun-like names,
#: own-line comments, p95 of lines.
MOST_PRONOUNS, LEAST_COMMENTS, LONGEST_P95 = 0.005, 0.0195, 100

#: Not nouns: such a variable does not say what it holds.
PRONOUNS = frozenset(
    """
    of at own here there one ones found place places left told part whole other others both
    each some such what which where how way by without now then before after rest everything
    nothing wanted asked taken seen given kept made shown said it them these those
    """.split()  # noqa: SIM905
)

#: Expression -> what to write instead. Matched without regard to case.
WORDS = {
    r"\b(?:is|are|was|were) no\b(?! longer| more| less| fewer)": "is not a, are not",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\banew\b": "again",
    r"\btold\b|\btells?\b|\btelling\b": "reported, reports, shows",
    r"\bso many\b": "this many",
    r"\b(?:is|are) off\b": "is invalid",
    r"\bnowhere\b": "not found",
    r"\bthere twice\b|\bhere twice\b": "duplicated",
    r"\bwhole numbers?\b": "integer",
    r"\bas well as (?:it|they) may\b": "(delete)",
    r"\ba word about\b|\bhas a word\b": "warning about",
    r"\btake(?:s|n)? at (?:its|their) word\b": "trusted",
}

#: Text that is generated or quoted: the source is checked instead.
EXEMPT = (
    "docs/commands.md",
    "docs/errors.md",
    "tools/style.py",
    "CONTRIBUTING.md",
    "nextflow_schema.json",
    "LICENSE",
)


class Finding(NamedTuple):
    """One departure from the style."""

    path: str
    line: int
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


class Figures(NamedTuple):
    """How the package reads as a whole; the goals are in CONTRIBUTING."""

    pronouns: float
    comments: float
    p95: int


def tracked(*patterns: str) -> list[str]:
    """Return the files of the checkout that match; without git (an unpacked archive), what lies
    on disk.
    """
    try:
        names = subprocess.run(
            ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        names = [
            str(file.relative_to(ROOT))
            for pattern in patterns
            for file in ROOT.glob(f"**/{pattern}")
        ]
    return sorted(name for name in names if (ROOT / name).is_file() and "/." not in f"/{name}")


def files_to_check() -> list[str]:
    """Return the sources and pages that the style holds for: everything but tests, locks and
    generated pages.
    """
    names = tracked("*.py", "*.pyi", "*.md", "*.nf", "*.config", "*.html", "*.toml")
    return [
        name
        for name in names
        if not name.startswith(("tests/", "requirements/")) and name not in EXEMPT
    ]


def assigned_names(tree: ast.AST) -> list[tuple[str, int]]:
    """Return every variable that a module binds, with its line: assignments, loops, ``with``,
    comprehensions.
    """
    return [
        (node.id, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]


def prose(source: str) -> list[tuple[int, str]]:
    """Return the strings and comments of Python source with their first lines; f-strings piece
    by piece.
    """
    pieces = [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            pieces.append((token.start[0], token.string))
    return pieces


def check(path: str, text: str) -> list[Finding]:
    """Return what departs from the style in one file."""
    is_python = path.endswith((".py", ".pyi"))
    pieces = prose(text) if is_python else list(enumerate(text.splitlines(), 1))
    findings = []
    for first_line, piece in pieces:
        flat = piece.replace(
            "\n", " "
        )  # same length: positions stay valid, and an expression may cross a line break
        for expression, instead in WORDS.items():
            for match in re.finditer(expression.replace(" ", r"\s+"), flat, re.IGNORECASE):
                line = first_line + piece.count("\n", 0, match.start())
                findings.append(Finding(path, line, "words", f"{match[0]!r}: write {instead}"))
    if is_python:
        for name, line in assigned_names(ast.parse(text)):
            if name in PRONOUNS:
                findings.append(
                    Finding(
                        path,
                        line,
                        "names",
                        f"variable {name!r}: use a noun that says what it holds",
                    )
                )
    return findings


def figures() -> Figures:
    """Measure the package: pronoun-like assignments, own-line comments, 95th percentile of line
    lengths.
    """
    names: list[str] = []
    lines: list[str] = []
    for path in tracked("scale_toolkit/*.py"):
        text = (ROOT / path).read_text(encoding="utf-8")
        names += [name for name, _ in assigned_names(ast.parse(text))]
        lines += text.splitlines()
    lengths = sorted(len(line) for line in lines if line.strip())
    return Figures(
        pronouns=sum(name in PRONOUNS for name in names) / len(names),
        comments=sum(line.lstrip().startswith("#") for line in lines) / len(lines),
        p95=lengths[int(0.95 * len(lengths))],
    )


def read_record() -> dict[str, dict[str, int]]:
    """Return file -> kind -> count that it may not exceed."""
    record = {}
    for line in RECORD.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            path, *counts = line.split()
            record[path] = dict(zip(KINDS, map(int, counts), strict=True))
    return record


def write_record(record: dict[str, dict[str, int]]) -> None:
    """Write the record, one file a line."""
    lines = [
        f"{path} {' '.join(str(counts[kind]) for kind in KINDS)}"
        for path, counts in sorted(record.items())
    ]
    RECORD.write_text(
        f"# path, {', '.join(KINDS)}: may only shrink\n" + "\n".join(lines) + "\n", encoding="utf-8"
    )


def count(findings: list[Finding]) -> dict[str, dict[str, int]]:
    """Return file -> kind -> number of findings."""
    counter = Counter((finding.path, finding.kind) for finding in findings)
    return {
        path: {kind: counter[path, kind] for kind in KINDS}
        for path in {finding.path for finding in findings}
    }


def excess(findings: list[Finding], record: dict[str, dict[str, int]]) -> list[Finding]:
    """Return the findings of each file and kind whose number exceeds the record of the file and of
    its folder.

    A file that is split may so hand its findings on to the new ones beside it, as long as there are
    not more in all.
    """
    counts = count(findings)
    folders = [sum_by_folder(table) for table in (counts, record)]

    def exceeds(path: str, kind: str) -> bool:
        folder = str(Path(path).parent), kind
        return (
            counts[path][kind] > record.get(path, {}).get(kind, 0)
            and folders[0][folder] > folders[1][folder]
        )

    return [finding for finding in findings if exceeds(finding.path, finding.kind)]


def sum_by_folder(counts: dict[str, dict[str, int]]) -> Counter[tuple[str, str]]:
    """Return (folder, kind) -> number of findings."""
    totals: Counter[tuple[str, str]] = Counter()
    for path, by_kind in counts.items():
        for kind, number in by_kind.items():
            totals[str(Path(path).parent), kind] += number
    return totals


def main(arguments: list[str] | None = None) -> int:
    """Print the findings and the figures; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="left out: all")
    parser.add_argument("--all", action="store_true", help="print recorded findings too")
    parser.add_argument("--shrink", action="store_true", help="lower the record to what is left")
    options = parser.parse_args(arguments)
    paths = [
        str(Path(name).resolve().relative_to(ROOT)) for name in options.files
    ] or files_to_check()
    findings = [
        finding
        for path in paths
        for finding in check(path, (ROOT / path).read_text(encoding="utf-8"))
    ]
    record = read_record()
    if options.shrink:
        counts, exceeding = count(findings), {finding.path for finding in excess(findings, record)}
        lowered = {
            path: {kind: min(number, record[path][kind]) for kind, number in by_kind.items()}
            if path in record
            else by_kind  # split from a file beside it
            for path, by_kind in counts.items()
            if path in record or path not in exceeding
        }
        write_record({path: counts for path, counts in lowered.items() if any(counts.values())})
        record = read_record()
    too_many = excess(findings, record)
    for finding in findings if options.all else too_many:
        print(finding)
    measured = figures()
    print(
        f"{len(findings)} findings, {len(too_many)} in files that exceed the record; pronoun-like "
        "assignments "
        f"{measured.pronouns:.1%}, own-line comments {measured.comments:.1%}, p95 line "
        f"{measured.p95}"
    )
    return bool(too_many)


if __name__ == "__main__":
    sys.exit(main())
