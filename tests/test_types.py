"""The whole package passes mypy, no module exempt; a user's type checker sees the public types."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed: pip install mypy")


def mypy(*words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir", str(cwd / ".mypy_cache"), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_package_is_typed(tmp_path):
    result = mypy("--config-file", ROOT / "pyproject.toml", "--cache-dir", tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_module_is_exempt():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert settings["strict"] is True
    for override in settings["overrides"]:
        assert "ignore_errors" not in override
        assert not [name for name in override["module"] if name.startswith("scale_toolkit")]


def test_a_users_own_checker_sees_the_types(tmp_path):
    """`py.typed` and the lazy names: wrong uses are seen, right ones are not complained about."""
    (tmp_path / "use.py").write_text(
        "import anndata\n"
        "import scale_toolkit as scale\n"
        "from scale_toolkit import SCALE\n"
        "model = SCALE(anndata.AnnData(), n_components=4)\n"
        "model.train(max_epochs=3)\n"
        "model.train(max_epochs='three')\n"
        "number: int = model.get_imputed()\n"
        "scale.tl.cluster(model.adata, copy='yes')\n"
        "name: str = scale.__version__\n"
    )
    result = mypy("--config-file=", "--ignore-missing-imports", "--follow-imports=silent", "use.py", cwd=tmp_path)
    lines = [line.split(":")[1] for line in result.stdout.splitlines() if ": error:" in line]
    assert lines == ["6", "7", "8"], result.stdout + result.stderr
