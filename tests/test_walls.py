"""The walls between the rooms, and what an answer to ``--help`` may load."""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
from pathlib import Path

import grimp
import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).parents[1]
HEAVY = (
    "plotly",
    "jinja2",
    "torch",
    "scanpy",
    "anndata",
    "numpy",
    "scipy",
    "pandas",
    "sklearn",
    "h5py",
    "matplotlib",
    "episcanpy",
    "numba",
)


def lint(config: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", config],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_walls_stand():
    result = lint(ROOT / ".importlinter")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_linter_sees_a_breach(tmp_path):
    """The contracts are read and can fail: a wall that is known to be open is reported as broken."""
    contract = (ROOT / ".importlinter").read_text().split("[importlinter:contract")[0]
    contract += "[importlinter:contract:x]\nname=x\ntype=forbidden\nsource_modules=scale_toolkit.cli\n"
    (tmp_path / "lint").write_text(contract + "forbidden_modules=scale_toolkit.config\n")
    result = lint(tmp_path / "lint")
    assert result.returncode == 1
    assert "BROKEN" in result.stdout


def circles(edges):
    """Groups of nodes that reach each other."""
    names = sorted({name for edge in edges for name in edge})
    index = {name: i for i, name in enumerate(names)}
    row, column = np.array([(index[a], index[b]) for a, b in edges]).T
    graph = sparse.coo_matrix((np.ones(len(row)), (row, column)), shape=(len(names), len(names)))
    _, component = connected_components(graph, connection="strong")
    groups = [np.flatnonzero(component == c) for c in np.flatnonzero(np.bincount(component) > 1)]
    return [[names[i] for i in group] for group in groups]


def imports():
    graph = grimp.build_graph("scale_toolkit", exclude_type_checking_imports=True, cache_dir=None)
    return [(a, b) for a in graph.modules for b in graph.find_modules_directly_imported_by(a)]


def test_no_module_imports_itself_in_a_circle():
    # a package's __init__ that its own modules read for the version is not a circle: it imports nothing
    assert circles(imports()) == []


def test_no_room_imports_another_in_a_circle():
    rooms = [tuple(".".join(name.split(".")[:2]) for name in edge) for edge in imports()]
    assert circles([edge for edge in rooms if edge[0] != edge[1] and "scale_toolkit" not in edge]) == []


def test_a_circle_is_seen():
    assert circles([("a", "b"), ("b", "c"), ("c", "b")]) == [["b", "c"]]


@pytest.mark.parametrize(
    ("command", "module", "most"),
    [
        ("train", "model.mixture", 3),  # responsibilities and KL
        ("impute", "core.decode", 2),
        ("train", "model.seed", 3),
        ("prepare", "stages.prepare", 1),
        ("select_peaks", "stages.select_peaks", 1),
    ],
)
def test_few_files_from_a_command_to_the_line_that_computes(command, module, most):
    """CONTRIBUTING.md, the first question: files opened after the command's own."""
    graph = grimp.build_graph("scale_toolkit", exclude_type_checking_imports=True, cache_dir=None)
    chain = graph.find_shortest_chain(f"scale_toolkit.cli.{command}", f"scale_toolkit.{module}")
    assert chain is not None
    assert len(chain) - 1 <= most, chain


def test_every_room_has_its_contract():
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    rooms = {path.parent.name for path in (ROOT / "scale_toolkit").glob("*/__init__.py")}
    walled = {name.rpartition(":")[2] for name in contracts.sections()}
    assert rooms <= walled


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["plot", "embedding", "--help"],
        ["train", "--help"],
        ["cluster", "--method", "x"],
    ],
)
def test_an_answer_loads_nothing_heavy(words):
    code = (
        "import json, sys\n"
        "from scale_toolkit.cli.app import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n    code = end.code\n"
        "print('\\n' + json.dumps([code, sorted({name.partition('.')[0] for name in sys.modules})]))\n"
    )
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    exit_code, loaded = json.loads(result.stdout.splitlines()[-1])
    assert exit_code == (2 if "x" in words else 0)
    assert not set(HEAVY) & set(loaded)
    assert "typer" in loaded


def test_importing_the_package_loads_no_torch():
    code = "import scale_toolkit, sys; assert not {'torch', 'scanpy', 'anndata'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
