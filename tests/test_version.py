"""Two commits have two versions, and an installed package has that of its release."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import scale_toolkit
from scale_toolkit._version import VERSION, commit_of, full_version

ROOT = Path(__file__).parents[1]


def git(*words, folder):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "scale_toolkit").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    git("init", folder=tmp_path)
    git("commit", "--allow-empty", "-m", "one", folder=tmp_path)
    return tmp_path


def test_two_commits_have_two_versions(checkout):
    versions = []
    for _ in range(2):
        git("commit", "--allow-empty", "-m", "more", folder=checkout)
        versions.append(full_version(str(checkout / "scale_toolkit" / "__init__.py")))
        assert versions[-1] == f"{VERSION}+g{git('rev-parse', 'HEAD', folder=checkout)[:9]}"
    assert versions[0] != versions[1]


def test_packed_references_worktrees_and_detached_heads(checkout, tmp_path_factory):
    expected = git("rev-parse", "HEAD", folder=checkout)[:9]
    git("pack-refs", "--all", folder=checkout)
    assert commit_of(checkout) == expected
    worktree = tmp_path_factory.mktemp("trees") / "other"
    git("worktree", "add", "-b", "other", str(worktree), folder=checkout)
    assert commit_of(worktree) == expected
    git("checkout", "--detach", folder=checkout)
    assert commit_of(checkout) == expected


def test_an_installed_package_has_the_version_of_its_release(tmp_path):
    assert full_version(str(tmp_path / "site-packages" / "scale_toolkit" / "__init__.py")) == VERSION
    (tmp_path / "pyproject.toml").write_text("")
    assert full_version(str(tmp_path / "scale_toolkit" / "__init__.py")) == VERSION  # an archive without git


def test_receipts_carry_it(plant):
    cells = scale_toolkit.prepare(plant(), min_peaks=1)
    assert scale_toolkit.receipts(cells)[-1]["version"] == scale_toolkit.__version__
    assert scale_toolkit.__version__.partition("+")[0] == VERSION


def test_no_module_hides_a_public_function():
    modules = {path.stem for path in (ROOT / "scale_toolkit").glob("*.py")}
    assert modules & set(scale_toolkit._STAGES) == set()
