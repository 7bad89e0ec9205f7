"""The style check finds what it names, the record only shrinks, and the package stays within its
figures.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("style", ROOT / "tools/style.py")
style = importlib.util.module_from_spec(SPEC)
sys.modules["style"] = style  # NamedTuple looks its module up
SPEC.loader.exec_module(style)


@pytest.mark.parametrize(
    ("source", "kind", "line"),
    [
        ("own = 1\n", "names", 1),
        ("x = 0\nfor place in range(3):\n    pass\n", "names", 2),
        ("with open('a') as here:\n    pass\n", "names", 1),
        ("y = [one for one in 'ab']\n", "names", 1),
        ("(left, n_cells) = 1, 2\n", "names", 1),
        ('def f():\n    """First.\n\n    A name that is\n    no interval.\n    """\n', "words", 4),
        ("n = 3\nerror = f'the file {n} is off'\n", "words", 2),
        ("n = 3  # computed anew\n", "words", 1),
    ],
)
def test_a_departure_is_found(source, kind, line):
    assert [(f.kind, f.line) for f in style.check("a.py", source)] == [(kind, line)]


@pytest.mark.parametrize(
    "source",
    [
        "found(1)\n",
        "cell.place = 1\n",
        "n_cells = 1  # is no longer needed\n",
        f"x = {'1 + ' * 40}1\n",
    ],
)
def test_what_is_fine_is_not_found(source):
    assert style.check("a.py", source) == []


def test_a_page_is_read_line_by_line():
    findings = style.check("a.md", "Good.\nThis is no use.\n")
    assert [(f.kind, f.line) for f in findings] == [("words", 2)]


def test_what_exceeds_the_record_is_reported():
    findings = style.check("a.py", "own = 1\nplace = 2\n")
    assert style.excess(findings, {"a.py": {"names": 2, "words": 0}}) == []
    assert len(style.excess(findings, {"a.py": {"names": 1, "words": 0}})) == 2
    assert len(style.excess(findings, {})) == 2


def test_a_split_file_hands_its_findings_on():
    findings = style.check("room/a.py", "own = 1\n") + style.check("room/b.py", "place = 2\n")
    assert style.excess(findings, {"room/old.py": {"names": 2, "words": 0}}) == []
    assert len(style.excess(findings, {"room/old.py": {"names": 1, "words": 0}})) == 2
    assert len(style.excess(findings, {"other/old.py": {"names": 2, "words": 0}})) == 2


def test_the_record_is_not_exceeded():
    findings = [
        finding
        for path in style.files_to_check()
        for finding in style.check(path, (ROOT / path).read_text(encoding="utf-8"))
    ]
    excess = style.excess(findings, style.read_record())
    assert not excess, "\n".join(map(str, excess))


def test_the_record_can_only_be_lowered(tmp_path, monkeypatch):
    record = tmp_path / "record.txt"
    monkeypatch.setattr(style, "RECORD", record)
    monkeypatch.setattr(style, "ROOT", tmp_path)
    monkeypatch.setattr(style, "figures", lambda: style.Figures(0, 1, 0))
    monkeypatch.setattr(style, "files_to_check", lambda: ["a.py", "room/b.py"])
    (tmp_path / "room").mkdir()
    (tmp_path / "a.py").write_text("own = 1\n")
    (tmp_path / "room/b.py").write_text("own = 1\n")
    style.write_record(
        {
            "a.py": {"names": 9, "words": 9},
            "gone.py": {"names": 1, "words": 1},
        }
    )
    assert style.main(["--shrink"]) == 1  # b.py is new and exceeds
    assert style.read_record() == {"a.py": {"names": 1, "words": 0}}


def test_the_package_reads_no_worse_than_recorded():
    measured = style.figures()
    assert measured.pronouns <= style.MOST_PRONOUNS
    assert measured.comments >= style.LEAST_COMMENTS
    assert measured.p95 <= style.LONGEST_P95


def test_ruff_finds_nothing():
    result = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", ROOT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
