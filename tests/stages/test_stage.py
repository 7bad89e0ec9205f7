"""Stages as values: what a call may expect of every stage, whatever it computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.config import Config, option
from scale_toolkit.errors import InputError, MissingSlotError, OptionError
from scale_toolkit.stages.chain import check_all
from scale_toolkit.stages.receipts import LIBRARIES, digest, receipts
from scale_toolkit.stages.stage import Result, stage


@dataclass(frozen=True)
class DoubleConfig(Config):
    """Options of the stages made here."""

    factor: int = option(2, "Factor.", minimum=1)
    column: str | None = option(None, "A column of obs that is read.")


SCORE = keys.column("obs", "score")
MATRIX = keys.column("obsm", "X_double")


def reads(config):
    return (keys.X, *(() if config.column is None else (keys.column("obs", config.column),)))


def check(adata, config):
    if config.factor > adata.n_obs:
        raise OptionError(f"factor is {config.factor}", f"{adata.n_obs} or less")


@stage("double", DoubleConfig, reads=reads, writes=(SCORE, MATRIX), check=check)
def double(adata, config, *, progress=None):
    """Multiply X."""
    values = adata.X.toarray() * config.factor
    return Result({MATRIX: values, SCORE: values.sum(axis=1)}, facts={"largest": values.max()})


@stage("broken", DoubleConfig, reads=(keys.X,), writes=(SCORE, MATRIX))
def broken(adata, config, *, progress=None):
    """Return one matrix that fits, and one that does not."""
    return Result({SCORE: np.zeros(adata.n_obs), MATRIX: np.zeros((3, 3))}, drops=(keys.column("obs", "cell_type"),))


@stage("after", DoubleConfig, requires=(MATRIX,), check=check)
def after(adata, config, *, progress=None):
    """Need what `double` writes."""
    return Result({SCORE: MATRIX.get(adata)[:, 0]})


@stage("dropping", DoubleConfig, reads=(keys.X,))
def dropping(adata, config, *, progress=None):
    """Drop a column and write two slots, or fail."""
    if config.factor > 2:
        raise InputError("stopped")
    slots = {SCORE: np.ones(adata.n_obs), keys.column("uns", "made"): {"a": 1}}
    return Result(slots, drops=(keys.column("obs", "scale_old"),), facts={"said": "this"})


def contents(adata):
    """Return what an AnnData holds, to compare."""
    return {
        where: sorted(map(str, getattr(adata, where))) for where in ("obs", "var", "uns", "obsm", "varm", "obsp", "layers")
    }


def test_a_result_is_written_with_its_receipt(planted):
    given = planted
    made = double(given, factor=np.int64(3))
    assert made is given
    assert MATRIX.get(made).shape == made.shape
    (receipt,) = receipts(made)
    assert receipt["stage"] == "double"
    assert receipt["options"] == {"factor": 3, "column": None}
    assert receipt["notes"] == {"largest": float(MATRIX.get(made).max())}  # a NumPy number in the facts
    assert receipt["reads"] == ["X"]
    assert json.loads(made.uns["scale_runtime"])[0]["stage"] == "double"


@pytest.mark.parametrize("call", [broken, lambda adata: dropping(adata, factor=3)])
def test_a_stage_that_fails_leaves_the_adata_as_it_was(planted, call):
    planted.obs["scale_old"] = 0
    before = contents(planted)
    with pytest.raises((ValueError, InputError)):
        call(planted)
    assert contents(planted) == before


def test_a_stage_writes_and_drops(planted):
    planted.obs["scale_old"] = 0
    made = dropping(planted)
    assert made is planted
    assert "scale_old" not in made.obs and made.uns["made"] == {"a": 1} and (made.obs["score"] == 1).all()
    assert receipts(made)[0]["notes"] == {"said": "this"}


def test_facts_of_a_failed_stage_are_not_in_the_next_receipt(planted):
    planted.obs["scale_old"] = 0
    with pytest.raises(InputError):
        dropping(planted, factor=3)
    assert "_scale_notes" not in planted.uns
    assert "notes" not in receipts(after(double(planted)))[-1]


def test_a_view_is_copied(planted):
    made = double(planted[:10])
    assert made.n_obs == 10 and MATRIX.found_in(made)
    assert not MATRIX.found_in(planted)


def test_a_missing_slot_and_a_bad_option_are_errors_before_the_work(planted):
    with pytest.raises(MissingSlotError, match="X_double"):
        after(planted)
    with pytest.raises(OptionError, match="factor is 500"):
        double(planted, factor=500)
    with pytest.raises(OptionError, match="unknown option 'facto'"):
        double(planted, facto=2)


def test_every_check_of_a_chain_is_called_before_the_first_stage_works(planted):
    with pytest.raises(OptionError, match="factor is 500"):
        check_all([(double, DoubleConfig(), {}), (after, DoubleConfig(factor=500), {})], planted)
    check_all([(double, DoubleConfig(), {}), (after, DoubleConfig(), {})], planted)  # X_double will be written
    with pytest.raises(MissingSlotError):
        check_all([(after, DoubleConfig(), {})], planted)


def test_several_inputs_are_checked_as_all_their_cells(planted):
    chain = [(dropping, DoubleConfig(), {}), (after_dropping, DoubleConfig(factor=200), {})]
    check_all(chain, {"a": planted, "b": planted.copy()})
    with pytest.raises(OptionError):
        check_all(chain, [planted])


@stage("after-dropping", DoubleConfig, check=check)
def after_dropping(adata, config, *, progress=None):
    """Do nothing."""
    return Result()


def test_the_digest_covers_what_was_read(planted):
    plain = receipts(double(planted.copy()))[0]["input"]
    with_column = receipts(double(planted.copy(), column="cell_type"))[0]
    assert with_column["reads"] == ["X", "obs/cell_type"]
    planted.obs["cell_type"] = planted.obs["cell_type"].to_numpy()[::-1]
    assert receipts(double(planted.copy()))[0]["input"] == plain
    assert receipts(double(planted.copy(), column="cell_type"))[0]["input"] != with_column["input"]
    del planted.obs["cell_type"]
    assert len({digest(planted, (keys.X, SCORE)), digest(planted, (keys.X,))}) == 2


def test_the_digest_of_a_large_array_covers_every_piece_whatever_the_threads(planted, monkeypatch):
    monkeypatch.setattr("scale_toolkit.stages.receipts.PIECE", 1000)
    before = digest(planted, (keys.X,))
    assert digest(planted, (keys.X,), 3) == before
    for entry in (0, planted.X.nnz // 2, planted.X.nnz - 1):
        changed = planted.copy()
        changed.X.data[entry] += 1
        assert digest(changed, (keys.X,), 2) != before


def test_a_backed_anndata_has_the_digest_of_the_loaded_one(planted, tmp_path):
    import anndata

    planted.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert digest(backed, (keys.X,)) == digest(planted, (keys.X,))
    planted.X = planted.X.toarray()
    planted.write_h5ad(tmp_path / "dense.h5ad")
    assert digest(anndata.read_h5ad(tmp_path / "dense.h5ad", backed="r"), (keys.X,)) == digest(planted, (keys.X,))


def test_receipts_name_the_libraries_that_results_depend_on(planted):
    named = set(receipts(double(planted))[0]["libraries"])
    assert {"scikit-learn", "igraph", "leidenalg", "numba", "umap-learn", "pynndescent"} <= named <= set(LIBRARIES)


def test_receipts_of_another_program_are_an_error_before_the_work(planted):
    planted.uns["scale"] = "unit variance"
    with pytest.raises(InputError, match="does not hold the receipts"):
        double(planted)
    assert not MATRIX.found_in(planted)


def test_importing_a_stage_sets_no_environment_variable():
    code = (
        "import os; before = dict(os.environ); import scale_toolkit.stages.select_peaks, scale_toolkit.stages.train; "
        "changed = {k for k in os.environ if os.environ.get(k) != before.get(k)}; "
        "assert 'OMP_WAIT_POLICY' not in changed, changed"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_the_options_are_in_the_signature():
    import inspect

    assert list(inspect.signature(scale.train).parameters)[:4] == ["adata", "config", "preset", "n_components"]
