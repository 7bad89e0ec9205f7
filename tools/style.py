"""Measure how the code reads, and hold the files that already read well.

::

    python tools/style.py                  # what exceeds the record, and the figures; exit code 1 if anything does
    python tools/style.py --all [FILE...]  # every finding, recorded or not
    python tools/style.py --shrink         # lower the record to what is left; it is never raised

Three findings are counted in each file: variables named by a pronoun, a preposition or a participle instead of a noun
(Python), words from the list in CONTRIBUTING (docstrings, messages and comments of Python; every line of other text), and
lines of docstrings and comments over 100 characters, which a formatter does not break. `style_record.txt` lists the files
that still have some, with the counts they may not exceed. A file that is not listed may have none.
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
KINDS = ("names", "words", "lines")
LINE_LENGTH = 100

#: What the package may have at most (or at least): share of assignments to pronoun-like names, own-line comments, p95 of lines.
MOST_PRONOUNS, LEAST_COMMENTS, LONGEST_P95 = 0.12, 0.006, 118

#: Not nouns: such a variable does not say what it holds.
PRONOUNS = frozenset(
    """of at own here there one ones found place places left told part whole other others both each some such what which
    where how way by without now then before after rest everything nothing wanted asked taken seen given kept made shown
    said it them these those""".split()  # noqa: SIM905
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
EXEMPT = ("docs/commands.md", "docs/errors.md", "tools/style.py", "CONTRIBUTING.md", "nextflow_schema.json", "LICENSE")


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
    """Return the files of the checkout that match; without git (an unpacked archive), what lies on disk."""
    try:
        names = subprocess.run(
            ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        names = [str(file.relative_to(ROOT)) for pattern in patterns for file in ROOT.glob(f"**/{pattern}")]
    return sorted(name for name in names if (ROOT / name).is_file() and "/." not in f"/{name}")


def files_to_check() -> list[str]:
    """Return the sources and pages that the style holds for: everything but tests, locks and generated pages."""
    names = tracked("*.py", "*.pyi", "*.md", "*.nf", "*.config", "*.html", "*.toml")
    return [name for name in names if not name.startswith(("tests/", "requirements/")) and name not in EXEMPT]


def assigned_names(tree: ast.AST) -> list[tuple[str, int]]:
    """Return every variable that a module binds, with its line: assignments, loops, ``with``, comprehensions."""
    return [(node.id, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def prose(source: str) -> list[tuple[int, str]]:
    """Return the strings and comments of Python source with their first lines; f-strings piece by piece."""
    pieces = [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            pieces.append((token.start[0], token.string))
    return pieces


def text_lines(source: str) -> list[tuple[int, str]]:
    """Return the lines that consist of a comment, or belong to a string of several lines, with their numbers."""
    lines = source.splitlines()
    numbers = {number for number, line in enumerate(lines, 1) if line.lstrip().startswith("#")}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value:
            numbers.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring of one line
            numbers.add(node.lineno)
    return [(number, lines[number - 1]) for number in sorted(numbers)]


def check(path: str, text: str) -> list[Finding]:
    """Return what departs from the style in one file."""
    is_python = path.endswith((".py", ".pyi"))
    pieces = prose(text) if is_python else list(enumerate(text.splitlines(), 1))
    findings = []
    for first_line, piece in pieces:
        flat = piece.replace("\n", " ")  # same length: positions stay valid, and an expression may cross a line break
        for expression, instead in WORDS.items():
            for match in re.finditer(expression.replace(" ", r"\s+"), flat, re.IGNORECASE):
                line = first_line + piece.count("\n", 0, match.start())
                findings.append(Finding(path, line, "words", f"{match[0]!r}: write {instead}"))
    if is_python:
        for name, line in assigned_names(ast.parse(text)):
            if name in PRONOUNS:
                findings.append(Finding(path, line, "names", f"variable {name!r}: use a noun that says what it holds"))
        for number, line_text in text_lines(text):
            if len(line_text) > LINE_LENGTH:
                findings.append(Finding(path, number, "lines", f"{len(line_text)} characters"))
    return findings


def figures() -> Figures:
    """Measure the package: pronoun-like assignments, own-line comments, 95th percentile of line lengths."""
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
    lines = [f"{path} {' '.join(str(counts[kind]) for kind in KINDS)}" for path, counts in sorted(record.items())]
    RECORD.write_text(f"# path, {', '.join(KINDS)}: may only shrink\n" + "\n".join(lines) + "\n", encoding="utf-8")


def count(findings: list[Finding]) -> dict[str, dict[str, int]]:
    """Return file -> kind -> number of findings."""
    counter = Counter((finding.path, finding.kind) for finding in findings)
    return {path: {kind: counter[path, kind] for kind in KINDS} for path in {finding.path for finding in findings}}


def excess(findings: list[Finding], record: dict[str, dict[str, int]]) -> list[Finding]:
    """Return the findings of each file and kind whose number exceeds the record."""
    counts = count(findings)
    return [f for f in findings if counts[f.path][f.kind] > record.get(f.path, {}).get(f.kind, 0)]


def main(arguments: list[str] | None = None) -> int:
    """Print the findings and the figures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="left out: all")
    parser.add_argument("--all", action="store_true", help="print recorded findings too")
    parser.add_argument("--shrink", action="store_true", help="lower the record to what is left")
    options = parser.parse_args(arguments)
    paths = [str(Path(name).resolve().relative_to(ROOT)) for name in options.files] or files_to_check()
    findings = [finding for path in paths for finding in check(path, (ROOT / path).read_text(encoding="utf-8"))]
    record = read_record()
    if options.shrink:
        lowered = {
            path: {kind: min(counts[kind], record[path][kind]) for kind in KINDS}
            for path, counts in count(findings).items()
            if path in record
        }
        write_record({path: counts for path, counts in lowered.items() if any(counts.values())})
        record = read_record()
    too_many = excess(findings, record)
    for finding in findings if options.all else too_many:
        print(finding)
    measured = figures()
    print(
        f"{len(findings)} findings, {len(too_many)} in files that exceed the record; pronoun-like assignments "
        f"{measured.pronouns:.1%}, own-line comments {measured.comments:.1%}, p95 line {measured.p95}"
    )
    return bool(too_many)


if __name__ == "__main__":
    sys.exit(main())
