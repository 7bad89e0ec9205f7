from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

import scale_toolkit as scale
from scale_toolkit.config import LIKE, SimulateConfig
from scale_toolkit.errors import OptionError
from scale_toolkit.stages import simulate as stage
from scale_toolkit.stages.receipts import receipts
from scale_toolkit.stages.simulate import simulate, streamed

SMALL = {"n_cells": 200, "n_peaks": 1000, "n_clusters": 4, "open_peaks": 60}


@pytest.fixture(scope="module")
def small():
    return simulate(**SMALL)


def same_counts(a, b):
    return all(getattr(a.X, part).tobytes() == getattr(b.X, part).tobytes() for part in ("indptr", "indices", "data"))


def test_the_truth_is_beside_the_counts(small):
    assert small.shape == (200, 1000)
    assert small.obs_names[0] == "cell_0000001" and small.obs_names.is_unique
    assert small.var_names.is_unique and small.var_names.str.fullmatch(r"chr[\dX]+:\d+-\d+").all()
    assert isinstance(small.X, sparse.csr_matrix) and small.X.dtype == np.float32
    assert list(small.obs["cell_type"].cat.categories) == ["type1", "type2", "type3", "type4"]
    assert small.obs["cell_type"].notna().all() and small.obs["cell_type"].nunique() == 4
    assert set(small.obs["batch"]) == {"batch1"}
    assert not small.obs["is_doublet"].any()
    assert small.obs[["doublet_with", "path_from", "path_to", "path_position"]].isna().all(axis=None)
    assert np.corrcoef(small.obs["true_depth"], np.diff(small.X.indptr))[0, 1] > 0.9
    assert set(small.var["program"].dropna()) == {"type1", "type2", "type3", "type4", "type1+type2", "type3+type4"}


def test_doublets_and_paths_name_both_cells():
    obs = simulate(**SMALL, doublets=0.2, continuum=0.3).obs
    doublets, paths = obs[obs["is_doublet"]], obs[obs["path_from"].notna()]
    assert len(doublets) == 40 and len(paths) == 60 and doublets.index.intersection(paths.index).empty
    assert (doublets["cell_type"].astype(str) != doublets["doublet_with"].astype(str)).all()
    assert (paths["path_from"].astype(str) != paths["path_to"].astype(str)).all()
    nearer = np.where(paths["path_position"] > 0.5, paths["path_to"], paths["path_from"])
    assert list(paths["cell_type"]) == list(nearer)
    assert obs.loc[~obs["is_doublet"], "doublet_with"].isna().all()


def test_the_last_of_an_odd_number_of_clusters_has_no_sibling():
    programs = simulate(n_cells=50, n_peaks=300, n_clusters=3).var["program"]
    assert list(programs.cat.categories) == ["type1", "type2", "type3", "type1+type2"]


@pytest.mark.parametrize("options", [{}, {"doublets": 0.1, "continuum": 0.1, "n_batches": 2}])
def test_streamed_makes_the_same_cells_and_the_same_receipt(options, monkeypatch):
    from scale_toolkit.core import simulate as core

    monkeypatch.setattr(core, "_OPEN_PEAKS_A_BLOCK", 3000)  # four blocks
    whole = simulate(**SMALL, **options)
    for adata, rows in (streamed(**SMALL, **options), streamed(SimulateConfig(**SMALL, **options))):
        assert adata.X is None and set(rows) == {"X"}
        assert rows["X"].shape == whole.shape and rows["X"].format == "csr" and rows["X"].dtype == whole.X.dtype
        blocks = list(rows["X"].blocks())
        assert len(blocks) == 4
        assert (sparse.vstack(blocks, format="csr") != whole.X).nnz == 0
        assert adata.obs.equals(whole.obs) and adata.var.equals(whole.var)
        assert receipts(adata) == receipts(whole)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_cells", 150),
        ("n_peaks", 1200),
        ("n_clusters", 5),
        ("open_peaks", 90.0),
        ("n_batches", 2),
        ("doublets", 0.1),
        ("continuum", 0.1),
        ("seed", 19),
    ],
)
def test_every_option_changes_the_counts(small, name, value):
    assert not same_counts(simulate(**(SMALL | {name: value})), small)


def test_the_same_options_give_the_same_bytes_twice(small):
    again = simulate(SimulateConfig(**SMALL))
    assert same_counts(again, small) and again.obs.equals(small.obs) and again.var.equals(small.var)


@pytest.mark.parametrize("name", [n for n in LIKE if n not in ("mouse-atlas", "splenocyte")])
def test_like_has_the_size_depth_and_classes_of_the_data_set(name):
    wanted = stage.DATA_SETS[name]
    made = simulate(like=name)
    assert made.shape == (wanted.n_cells, wanted.n_peaks)
    assert made.obs["cell_type"].nunique() == wanted.n_clusters
    assert np.median(np.diff(made.X.indptr)) == pytest.approx(wanted.open_peaks, rel=0.05)


def test_like_of_a_large_set_streams():
    adata, rows = streamed(like="splenocyte")
    assert adata.shape == (3_166, 77_453) == rows["X"].shape
    assert adata.obs["cell_type"].nunique() == 12
    first = next(iter(rows["X"].blocks()))
    assert np.median(np.diff(first.indptr)) == pytest.approx(3_100, rel=0.05)
    assert stage._sizes(SimulateConfig(like="mouse-atlas")) == stage.Sizes(81_173, 436_206, 30, 4_400)


def test_like_is_measured_where_the_data_set_is_here(real):
    leukemia = real("leukemia")
    wanted = stage.DATA_SETS["leukemia"]
    assert (*leukemia.shape, leukemia.obs["cell_type"].nunique()) == (wanted.n_cells, wanted.n_peaks, wanted.n_clusters)
    assert np.median(np.diff(sparse.csr_matrix(leukemia.X).indptr)) == wanted.open_peaks


def test_every_data_set_of_the_option_is_described():
    assert tuple(stage.DATA_SETS) == LIKE
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    for name, sizes in stage.DATA_SETS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[2:5] == [f"{sizes.n_cells:,}", f"{sizes.n_peaks:,}", str(sizes.n_clusters)]
        assert f"{sizes.open_peaks:,}" in cells[5]


def test_an_option_overrides_the_data_set_and_depth_follows_fewer_peaks():
    made = simulate(like="leukemia", n_cells=100, n_clusters=3)
    assert made.shape == (100, 7602) and made.obs["cell_type"].nunique() == 3
    few = simulate(n_cells=100, n_peaks=500)
    assert np.median(np.diff(few.X.indptr)) == pytest.approx(50, rel=0.1)
    assert receipts(few)[-1]["notes"]["open_peaks"] == 50


def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "simulator_difficulty.py"
    spec = importlib.util.spec_from_file_location("simulator_difficulty", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_default_is_neither_trivial_nor_hopeless_for_tfidf_and_svd():
    ari = benchmark().ari
    scores = [ari(simulate(seed=seed)) for seed in range(2)]
    assert 0.85 <= np.mean(scores) <= 0.95, scores


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_cells": 5}, r"n_cells is 5; expected at least one for each of the 8 clusters"),
        ({"n_peaks": 10}, r"n_peaks is 10; expected 12 or more for 8 clusters"),
        ({"n_peaks": 10**7}, r"n_peaks is 10000000; expected \d+ or fewer"),
        ({"open_peaks": 15_000}, r"open_peaks is 15000 of 20000 peaks; expected 10000 or less"),
        ({"doublets": 0.7, "continuum": 0.7}, r"make 1.4; expected 1 or less"),
        ({"n_clusters": 1, "doublets": 0.1}, r"n_clusters is 1; expected 2 or more"),
        ({"like": "pbmc"}, r"like is 'pbmc'; expected one of leukemia"),
        ({"depth": 3}, r"unknown option 'depth'"),
    ],
)
def test_sizes_that_do_not_go_together_are_an_error(options, words):
    with pytest.raises(OptionError, match=words):
        simulate(**options)
    with pytest.raises(OptionError, match=words):
        streamed(**options)


def test_the_result_can_be_written_and_read(tmp_path, small):
    small.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert same_counts(back, small)
    assert list(back.obs["cell_type"]) == list(small.obs["cell_type"])


def test_progress_tells_the_cells_done():
    told = []
    simulate(**SMALL, progress=lambda *words: told.append(words))
    assert told == [("computing X", 200, 200)]


def test_the_signature_shows_the_options_and_no_input():
    names = list(inspect.signature(scale.simulate).parameters)
    assert "adata" not in names and {"config", "like", "n_cells", "seed"} <= set(names)
