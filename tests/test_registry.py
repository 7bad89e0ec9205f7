"""What is derived from the registry of stages, and what must agree with it."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.errors import InputError
from scale_toolkit.needs import STAGES as ESTIMATED
from scale_toolkit.registry import STAGES, config_of

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("make_stages", ROOT / "docs/make_stages.py")
make_stages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_stages)


@pytest.mark.parametrize("entry", STAGES.values(), ids=list(STAGES))
def test_a_stage_is_in_the_package_and_in_its_namespace(entry):
    function = entry.load()
    assert (function.stage.name, function.stage.config) == (entry.name, entry.config)
    options = set(entry.config.__dataclass_fields__)
    assert options <= set(inspect.signature(getattr(scale, entry.module)).parameters)
    if entry.namespace:
        public = getattr(getattr(scale, entry.namespace), entry.module)
        assert {"adata", "copy", *options} <= set(inspect.signature(public).parameters)
        assert entry.module in getattr(scale, entry.namespace).__all__


def test_every_stage_module_is_registered():
    """Each function with receipts is in the registry."""
    import ast

    named = set()
    for path in (ROOT / "scale_toolkit/stages").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if is_call and node.func.id == "stage" and node.args:
                named.add(node.args[0].value)
    assert named == set(STAGES)


def test_slots_of_the_contract_are_written_by_registered_stages():
    stages = {slot.stage.split()[0] for slot in keys.all_slots()} - {"any"}
    assert stages == set(STAGES)


def test_plan_estimates_them():
    assert ESTIMATED == ("prepare", "select_peaks", "train", "cluster", "embed", "markers", "impute", "report")
    assert config_of("select-peaks").__name__ == "SelectPeaksConfig"
    assert config_of("dance") is None


def test_every_stage_is_a_command():
    from scale_toolkit.cli.app import app

    assert set(STAGES) <= {command.name for command in app.registered_commands}


def test_the_readme_has_the_table():
    text = make_stages.PAGE.read_text(encoding="utf-8")
    assert text == make_stages.page(text), "python docs/make_stages.py"


def test_the_registry_loads_nothing_heavy():
    code = "import sys, scale_toolkit.registry; assert not {'numpy', 'anndata', 'torch', 'scanpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tables_are_read_by_get(planted):
    scale.tl.train(planted, n_components=3, latent=4, max_iter=4, n_threads=1)
    assert scale.get.latent(planted).shape == (120, 4)
    assert scale.get.posterior(planted).sum(axis=1).round(3).eq(1).all()
    some = scale.get.imputed(planted, peaks=list(planted.var_names[:3]), cells=planted.obs_names[5])
    assert some.shape == (1, 3) and some.index[0] == "cell5"
    scale.tl.markers(planted, cluster_by="cell_type", n_threads=1)
    table = scale.get.markers(planted, "type1")
    assert set(table["cluster"]) == {"type1"} and len(table) < len(scale.get.markers(planted))
    with pytest.raises(InputError, match="the cluster 'type9' is missing"):
        scale.get.markers(planted, "type9")


def test_each_figure_of_the_command_line_is_a_function_of_pl():
    from scale_toolkit.cli.plot import app

    figures = [command.callback.__name__ for command in app.registered_commands]
    assert len(figures) == 9
    for figure in figures:
        assert figure in scale.pl.__all__
        assert callable(getattr(scale.pl, figure))
