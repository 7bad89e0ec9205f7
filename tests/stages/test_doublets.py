"""Doublets of planted cells: scores, calls, the report and the command."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import scale_toolkit as scale
from scale_toolkit import keys, report
from scale_toolkit.cli import app
from scale_toolkit.core.doublets import DoubletScores
from scale_toolkit.errors import InputError, MissingSlotError, ScaleWarning
from scale_toolkit.stages import doublets as stage
from scale_toolkit.stages.receipts import receipts


@pytest.fixture(scope="module")
def trained():
    """Planted cells, 8 % of them doublets, with a short training and the true types."""
    cells = scale.simulate(n_cells=600, n_peaks=8000, n_clusters=6, doublets=0.08, seed=3)
    scale.pp.prepare(cells, min_peaks=1, min_cells=5)
    scale.tl.train(cells, n_components=4, max_epochs=2, n_threads=1)
    keys.CLUSTER.set(cells, cells.obs["cell_type"].copy())
    return cells


@pytest.fixture(scope="module")
def scored(trained):
    return scale.doublets(trained.copy(), n_threads=1)


def test_planted_doublets_are_found(scored):
    truth = scored.obs["is_doublet"].to_numpy()
    area = roc_auc_score(truth, keys.DOUBLET_SCORE.get(scored))
    assert area > 0.95
    assert area > roc_auc_score(truth, keys.N_PEAKS.get(scored))
    summary = keys.DOUBLETS.get(scored)
    assert summary["rate"] == pytest.approx(0.08, abs=0.03)
    assert summary["observed"].sum() == 600 == summary["n_cells"]
    called = keys.PREDICTED_DOUBLET.get(scored).to_numpy()
    assert called.sum() == summary["n_called"]
    np.testing.assert_array_equal(called, keys.DOUBLET_SCORE.get(scored) > summary["threshold"])
    assert receipts(scored)[-1]["notes"]["n_called"] == called.sum()


def test_no_planted_doublets_give_a_low_rate():
    cells = scale.simulate(n_cells=600, n_peaks=4000, n_clusters=4, seed=3)
    scale.pp.prepare(cells, min_peaks=1, min_cells=5)
    scale.tl.train(cells, n_components=4, max_epochs=2, n_threads=1)
    assert keys.DOUBLETS.get(scale.doublets(cells, n_threads=1))["rate"] < 0.03


def test_a_given_rate_calls_that_share_of_the_cells(trained, scored):
    result = scale.doublets(trained.copy(), rate=0.05, n_threads=1)
    called = keys.PREDICTED_DOUBLET.get(result).to_numpy()
    assert called.sum() == 30
    scores = keys.DOUBLET_SCORE.get(result).to_numpy()
    assert scores[called].min() == keys.DOUBLETS.get(result)["threshold"] >= scores[~called].max()
    np.testing.assert_array_equal(scores, keys.DOUBLET_SCORE.get(scored))
    assert keys.DOUBLETS.get(scale.doublets(trained.copy(), rate=0.0))["n_called"] == 0


def test_removed_cells_are_gone_and_the_others_keep_their_scores(trained, scored):
    result = scale.tl.doublets(trained, remove=True, n_threads=1, copy=True)
    kept = ~keys.PREDICTED_DOUBLET.get(scored).to_numpy()
    assert list(result.obs_names) == list(scored.obs_names[kept])
    assert not keys.PREDICTED_DOUBLET.get(result).any()
    np.testing.assert_array_equal(keys.DOUBLET_SCORE.get(result), keys.DOUBLET_SCORE.get(scored)[kept])
    assert trained.n_obs == 600


def test_only_the_modelled_peaks_are_used(trained):
    cells = trained.copy()
    selected = np.arange(cells.n_vars) % 2 == 0
    keys.SELECTED.set(cells, selected)
    result = scale.doublets(cells, n_threads=1)
    alone = scale.doublets(cells[:, selected].copy(), n_threads=1)
    np.testing.assert_allclose(keys.DOUBLET_SCORE.get(result), keys.DOUBLET_SCORE.get(alone))


def test_another_seed_draws_other_pairs(trained, scored):
    result = scale.doublets(trained.copy(), seed=4, n_threads=1)
    assert (keys.DOUBLET_SCORE.get(result) != keys.DOUBLET_SCORE.get(scored)).any()
    assert np.corrcoef(keys.DOUBLET_SCORE.get(result), keys.DOUBLET_SCORE.get(scored))[0, 1] > 0.9


def test_few_cells_and_missing_slots_are_errors(trained):
    with pytest.raises(InputError, match="19 cells; expected at least 20"):
        scale.doublets(trained[:19].copy())
    cells = trained.copy()
    del cells.obsm["X_scale"]
    with pytest.raises(MissingSlotError, match=r"X_scale.* is missing.*scale train"):
        scale.doublets(cells)


def test_scores_that_do_not_separate_warn_or_need_a_rate(trained, monkeypatch):
    rng = np.random.default_rng(0)
    blurred = DoubletScores(rng.random(600), rng.random(1200), 0.5, 0.5, 0.5)
    monkeypatch.setattr(stage, "score_doublets", lambda *_: blurred)
    with pytest.warns(ScaleWarning, match="is not to be relied on; give `rate`"):
        scale.doublets(trained.copy())
    with pytest.raises(InputError, match="not separable from the cells: 50% of the simulated"):
        scale.doublets(trained.copy(), remove=True)
    assert scale.doublets(trained.copy(), remove=True, rate=0.1).n_obs == 540


def test_the_report_shows_scores_and_calls_by_cluster(scored):
    page = report.page(scored)
    summary = keys.DOUBLETS.get(scored)
    assert f"{summary['n_called']} of 600 cells called, a rate of" in page
    assert 'id="doublet_scores"' in page or "doublet_scores" in page
    assert "Doublets of one type are not found by this score" in page


def test_the_report_warns_of_a_cluster_of_doublets(scored):
    cells = scored.copy()
    called = keys.PREDICTED_DOUBLET.get(cells).to_numpy()
    keys.CLUSTER.set(cells, np.where(called, "9", "1"))
    assert "100% of the cells of cluster 9 look like doublets" in report.page(cells)


def test_a_report_without_doublets_has_no_such_section(trained):
    assert "Doublets of one type" not in report.page(trained)


def test_the_figure_shows_both_histograms(scored, tmp_path):
    ax = scale.pl.doublets(scored, save=tmp_path / "d.png")
    assert f"{keys.DOUBLETS.get(scored)['n_called']} called" in ax.get_title()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["cells", "simulated doublets"]
    assert (tmp_path / "d.png").stat().st_size > 5_000


def test_the_command_shows_draws_and_removes(trained, tmp_path, capfd):
    trained.write_h5ad(tmp_path / "in.h5ad")
    output, figure = tmp_path / "out.h5ad", tmp_path / "d.pdf"
    words = ["doublets", str(tmp_path / "in.h5ad"), "-o", str(output), "--figure", str(figure)]
    with pytest.raises(SystemExit) as ended:
        app.main([*words, "--rate", "0.1", "--remove", "--json-logs"])
    assert ended.value.code == 0
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert any(line.get("doublets") == 60 for line in lines)
    assert anndata.read_h5ad(output).n_obs == 540
    assert figure.stat().st_size > 1_000


def test_a_figure_of_an_unknown_kind_is_refused(tmp_path, capfd):
    with pytest.raises(SystemExit) as ended:
        app.main(["doublets", "in.h5ad", "-o", "out.h5ad", "--figure", "d.txt"])
    assert ended.value.code == 2
    assert "--figure is d.txt; expected a name that ends in .pdf, .png, .svg" in capfd.readouterr().err
