"""The table "What was tried" in docs/inputs.md: every situation names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FEWEST = 94


def test_every_situation_names_a_test_that_exists():
    table = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8").split("## What was tried")[1]
    rows = re.findall(r"^\| (.+) \| (.+) \| `(.+)` \|$", table, flags=re.MULTILINE)
    assert len({situation for situation, _, _ in rows}) == len(rows) >= FEWEST
    for situation, _, test in rows:
        file, _, name = test.partition("::")
        text = (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
        assert f"def {name}(" in text, f"{situation}: {test}"
