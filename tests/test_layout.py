"""Files have one purpose and a size that can be read in a sitting."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 450

#: Files outside the package that are longer, with their length: numbers only fall, nothing is added.
LONGER = {
    "tests/cli/test_commands.py": 605,
    "tests/io/test_h5ad.py": 688,
    "tests/report/test_page.py": 485,
    "tests/stages/test_cluster.py": 666,
    "tests/stages/test_prepare.py": 460,
    "tests/test_packaging.py": 482,
}


def lengths(folder: str) -> dict[str, int]:
    """Return the number of lines of every Python file below a folder."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths, folder
    return {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in paths
    }


def too_long(found: dict[str, int], allowed: dict[str, int]) -> list[str]:
    return [f"{path}: {n} lines" for path, n in found.items() if n > allowed.get(path, MOST_LINES)]


def test_no_file_of_the_package_is_too_long():
    assert too_long(lengths("scale_toolkit"), {}) == []


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "docs", "tools"])
def test_no_other_file_grows_too_long(folder):
    assert too_long(lengths(folder), LONGER) == []


def test_a_long_file_is_found():
    assert too_long({"a.py": 451, "b.py": 450, "c.py": 460}, {"c.py": 460}) == ["a.py: 451 lines"]
