"""The walls between the rooms, and what an answer to ``--help`` may load."""

from __future__ import annotations

import ast
import configparser
import json
import re
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


#: The rows of CONTRIBUTING.md's first question, and the command whose file each is counted from.
COMMANDS = {
    "responsibilities": "train",
    "KL divergence": "train",
    "an imputed value": "impute",
    "the seed": "train",
    "the peak filter": "prepare",
    "the choice of peaks": "select_peaks",
}


def hops():
    """What, how many files, and the files with the function that is named: from the table."""
    for line in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and cells[1].isdecimal():
            yield cells[0], int(cells[1]), re.findall(r"`([\w/]+)\.py`(?: \(`(\w+)`\))?", cells[2])


def test_the_table_of_hops_has_all_rows():
    assert [what for what, _, _ in hops()] == list(COMMANDS)


@pytest.mark.parametrize(("what", "n_files", "files"), list(hops()), ids=[what for what, _, _ in hops()])
def test_few_files_from_a_command_to_the_line_that_computes(what, n_files, files):
    """Each file of a row defines the function that is named, and the file before imports it or calls that function."""
    assert n_files == len(files) <= 3
    assert files[-1][1], "the last file names its function"
    trees = {file: syntax_of(file) for file, _ in [(f"cli/{COMMANDS[what]}", ""), *files]}
    graph = grimp.build_graph("scale_toolkit", exclude_type_checking_imports=True, cache_dir=None)
    for caller, (file, function) in zip(trees, files, strict=False):
        defined = {node.name for node in ast.walk(trees[file]) if isinstance(node, ast.FunctionDef)}
        assert not function or function in defined, f"{file}.py defines no {function}"
        importer, imported = (f"scale_toolkit.{name.replace('/', '.')}" for name in (caller, file))
        called = {node.attr for node in ast.walk(trees[caller]) if isinstance(node, ast.Attribute)}
        assert graph.direct_import_exists(importer=importer, imported=imported) or function in called, (caller, file)


def syntax_of(file):
    return ast.parse((ROOT / "scale_toolkit" / f"{file}.py").read_text(encoding="utf-8"))


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
