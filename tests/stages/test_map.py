"""New cells on a trained file: planted types on other peaks, a type left out, and what is refused."""

from __future__ import annotations

import io
import json

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import scale_toolkit as scale
from scale_toolkit import keys, report
from scale_toolkit.cli import app
from scale_toolkit.core.intervals import parse_names
from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.stages.receipts import receipts


def on_other_peaks(cells, seed=0):
    """A third of the peaks dropped, and of the others a third each shifted, split and merged."""
    rng = np.random.default_rng(seed)
    table = parse_names(cells.var_names)
    counts, names, columns = sparse.csc_matrix(cells.X), [], []
    kept = np.flatnonzero(rng.random(cells.n_vars) > 1 / 3)
    for number, peak in enumerate(kept):
        chrom, start, end = table.iloc[peak]
        column = counts[:, [peak]]
        if number % 3 == 0:
            names.append(f"{chrom}_{start + 40}_{end + 40}")
            columns.append(column)
        elif number % 3 == 1:
            middle = (start + end) // 2
            first = sparse.csc_matrix(rng.binomial(column.toarray().astype(int), 0.5))
            names += [f"{chrom}_{start}_{middle}", f"{chrom}_{middle}_{end}"]
            columns += [first, column - first]
        else:
            names.append(f"{chrom}_{start - 30}_{end + 60}")
            columns.append(column)
    result = anndata.AnnData(
        sparse.hstack(columns).tocsr().astype(np.float32), obs=cells.obs.copy()
    )
    result.var_names = names
    return result


@pytest.fixture(scope="module")
def kept_model():
    """The bytes of the model file of `halves`, once that fixture has run."""
    return []


@pytest.fixture(scope="module")
def halves(kept_model):
    """A trained half without one of five planted types, and the other half on other peaks."""
    cells = scale.simulate(n_cells=800, n_peaks=6000, n_clusters=5, seed=4)
    first = np.arange(800) % 2 == 0
    trained = cells[first & (cells.obs["cell_type"] != "type5").to_numpy()].copy()
    scale.pp.prepare(trained, min_peaks=1, min_cells=3)
    trained.obs["site"] = np.where(np.arange(trained.n_obs) % 2, "a", "b")
    scale.train(trained, n_components=4, max_epochs=2, n_threads=1, keep_model=kept_model.append)
    return trained, on_other_peaks(cells[~first].copy())


@pytest.fixture(scope="module")
def mapped(halves):
    trained, query = halves
    return scale.map(query.copy(), reference=trained, labels=("cell_type", "site"), n_threads=1)


def test_planted_types_come_back_and_the_one_left_out_is_new(halves, mapped):
    truth = mapped.obs["cell_type"].astype(str).to_numpy()
    known = truth != "type5"
    label, confidence = (slot.get(mapped) for slot in keys.label_slots("cell_type"))
    assert (label.astype(str).to_numpy() == truth)[known].mean() > 0.95
    assert confidence[known].mean() > 0.85 and confidence.between(0, 1).all()
    assert roc_auc_score(~known, keys.NOVELTY.get(mapped)) > 0.95
    called = keys.NOT_IN_REFERENCE.get(mapped).to_numpy()
    assert called[~known].mean() > 0.5 and called[known].mean() < 0.05
    assert (keys.NOVELTY_P.get(mapped)[known] < 0.05).mean() < 0.15
    summary = keys.MAPPING.get(mapped)
    assert summary["n_named"] == 0 and summary["n_overlapping"] > 3000
    assert 0.5 < summary["weight"] < 0.7 and summary["n_called"] == called.sum()
    assert summary["query"].sum() == 400 and summary["reference"].sum() == halves[0].n_obs
    assert receipts(mapped)[-1]["notes"]["labels"] == ["cell_type", "site"]
    # site is random: its labels are not to be trusted
    assert keys.label_slots("site")[1].get(mapped).mean() < 0.75


def test_latent_vectors_are_those_of_the_same_cells_in_the_reference(halves):
    trained, _ = halves
    mapped = scale.map(trained.copy(), reference=trained, n_threads=1)
    own, new = keys.LATENT.get(trained), keys.LATENT.get(mapped)
    cosine = (own * new).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(new, axis=1)
    assert np.median(cosine) > 0.9
    np.testing.assert_allclose(np.square(new).mean(1), 1, atol=1e-3)
    assert np.corrcoef(keys.OFFSET.get(trained), keys.OFFSET.get(mapped))[0, 1] > 0.95
    np.testing.assert_allclose(keys.DECODER.get(mapped), keys.DECODER.get(trained), atol=1e-5)
    np.testing.assert_allclose(keys.BIAS.get(mapped), keys.BIAS.get(trained), atol=1e-4)
    same = keys.COMPONENT.get(mapped).astype(str) == keys.COMPONENT.get(trained).astype(str)
    assert same.mean() > 0.6
    assert keys.MAPPING.get(mapped)["n_named"] == trained.n_vars


def test_missing_peaks_are_not_closed_peaks(halves):
    """Without the peaks of one type, its cells are placed by the others'."""
    trained, _ = halves
    half = trained[:, np.arange(trained.n_vars) % 2 == 0].copy()
    mapped = scale.map(half, reference=trained, n_threads=1)
    ratio = np.exp(keys.OFFSET.get(mapped) - keys.OFFSET.get(trained))
    assert np.median(ratio) == pytest.approx(1, abs=0.1)


def test_a_model_file_gives_the_latent_vectors_that_its_cells_give(halves, mapped, kept_model):
    _, query = halves
    alone = scale.map(mapped.copy(), reference=kept_model[0], n_threads=1)
    for slot, tolerance in (
        (keys.OFFSET, 0.01),
        (keys.DECODER, 0.02),
        (keys.BIAS, 0.05),
    ):
        # both start elsewhere, and end within the last step of one optimum
        np.testing.assert_allclose(slot.get(alone), slot.get(mapped), atol=tolerance)
    posteriors = [keys.POSTERIOR.get(adata) for adata in (alone, mapped)]
    # a cell between two components turns to the other within that step
    is_clear = posteriors[1].max(1) > 0.9
    assert is_clear.mean() > 0.9
    furthest = np.abs(keys.LATENT.get(alone) - keys.LATENT.get(mapped)).max(1)
    assert (furthest < 0.05).mean() > 0.99 and furthest.max() < 0.2
    np.testing.assert_allclose(posteriors[0][is_clear], posteriors[1][is_clear], atol=0.1)
    difference = np.abs(keys.LATENT.get(alone) - keys.LATENT.get(mapped))
    assert np.median(difference) < 0.005
    assert keys.MEDIAN_OFFSET.get(alone) == 0
    # the novelty and labels of the mapping before do not belong to this one
    assert not any(slot.found_in(alone) for slot in (keys.NOVELTY, keys.NOVELTY_P))
    assert not keys.NOT_IN_REFERENCE.found_in(alone)
    assert "scale_map_cell_type" not in alone.obs and "scale_map_site_confidence" not in alone.obs
    notes = receipts(alone)[-1]["notes"]
    assert notes["without_cells"] == (
        "a model file holds no cells to compare with: no labels, no novelty"
    )
    assert notes["n_reference"] == 0 and notes["weight"] == keys.MAPPING.get(mapped)["weight"]
    assert "The reference was a model file, which holds no cells" in report.page(alone)
    with pytest.raises(InputError, match="holds no novelty: the cells were mapped to a model file"):
        scale.pl.novelty(alone)
    same = scale.tl.map(query, reference=kept_model[0], n_threads=1, copy=True)
    np.testing.assert_array_equal(keys.LATENT.get(same), keys.LATENT.get(alone))


def likeness(cells, encoded):
    """Mean cosine with `encoded`, and the share of the cells with its mixture component, for the
    planted types that the reference has.
    """
    known = (cells.obs["cell_type"] != "type5").to_numpy()
    cosine = (keys.LATENT.get(cells) * keys.LATENT.get(encoded)).mean(1)
    components = [keys.COMPONENT.get(adata).astype(str).to_numpy() for adata in (cells, encoded)]
    return np.array([cosine[known].mean(), (components[0] == components[1])[known].mean()])


def purity(cells):
    """Share of the 15 nearest cells that are of the same planted type."""
    types = cells.obs["cell_type"].astype(str).to_numpy()
    search = NearestNeighbors(n_neighbors=15).fit(keys.LATENT.get(cells))
    return (types[search.kneighbors(return_distance=False)] == types[:, None]).mean()


@pytest.fixture(scope="module")
def encoded(halves, kept_model):
    """The cells of the query, on all peaks, and as the reference's own encoder encodes them."""
    cells = scale.simulate(n_cells=800, n_peaks=6000, n_clusters=5, seed=4)
    cells = cells[np.arange(800) % 2 == 1].copy()
    return cells, scale.encode(cells.copy(), model=kept_model[0], n_threads=1)


def test_fine_tuning_brings_sparse_cells_to_where_the_encoder_puts_them(
    halves, kept_model, encoded
):
    """A third of the reads, on other peaks; the decoder, the mixture, labels and novelty stay."""
    trained, query = halves
    sparser = query.copy()
    counts = sparse.csr_matrix(sparser.X)
    counts.data = np.random.default_rng(0).binomial(counts.data.astype(int), 1 / 3).astype(float)
    counts.eliminate_zeros()
    sparser.X = counts.astype(np.float32)
    options = {"reference": trained, "labels": ("cell_type",), "n_threads": 1}
    plain = scale.map(sparser.copy(), **options)
    updated = scale.tl.map(sparser, **options, update=True, copy=True)
    before = likeness(plain, encoded[1])
    assert before[1] > 0.85
    assert (likeness(updated, encoded[1]) > (before[0] + 0.02, 0.85)).all()
    assert purity(updated) > purity(plain)
    np.testing.assert_allclose(np.square(keys.LATENT.get(updated)).mean(1), 1, atol=1e-3)
    same = (keys.DECODER, keys.BIAS, keys.NOVELTY, keys.NOVELTY_P, *keys.label_slots("cell_type"))
    for slot in same:
        np.testing.assert_array_equal(slot.get(updated), slot.get(plain))
    for name, values in keys.MIXTURE.get(plain).items():
        np.testing.assert_array_equal(keys.MIXTURE.get(updated)[name], values)
    receipt = receipts(updated)[-1]
    assert receipt["options"]["update"] is True
    said = "the encoder was fine-tuned on the new cells; decoder and mixture are the reference's"
    assert receipt["notes"]["update"] == keys.MAPPING.get(updated)["update"] == said
    assert "update" not in receipts(plain)[-1]["notes"]
    assert "The encoder was fine-tuned on the new cells" in report.page(updated)
    alone = scale.map(sparser.copy(), reference=kept_model[0], update=True, n_threads=1)
    assert receipts(alone)[-1]["notes"]["update"] == said
    assert (likeness(alone, encoded[1]) > (before[0] + 0.02, 0.85)).all()


def test_fine_tuning_on_the_peaks_of_the_reference(halves, encoded):
    options = {"reference": halves[0], "n_threads": 1}
    plain = scale.map(encoded[0].copy(), **options)
    updated = scale.map(encoded[0].copy(), **options, update=True)
    before = likeness(plain, encoded[1])
    assert before[1] > 0.9
    assert (likeness(updated, encoded[1]) > (before[0] + 0.01, 0.95)).all()
    assert purity(updated) > purity(plain) - 0.01
    few = encoded[0][:19].copy()
    with pytest.raises(InputError, match="the query has 19 cells; expected at least 20 to fine"):
        scale.map(few, **options, update=True)


def test_a_model_of_the_published_preset_has_no_offsets(halves):
    """Its latent vectors are not on a sphere, and depth is part of them."""
    trained, query = halves
    kept = []
    cells = trained[:, trained.var_names].copy()
    scale.train(
        cells,
        n_components=4,
        preset="paper",
        max_iter=30,
        n_threads=1,
        keep_model=kept.append,
    )
    alone = scale.map(query.copy(), reference=kept[0], n_threads=1)
    assert (keys.OFFSET.get(alone) == 0).all()
    assert np.ptp(np.square(keys.LATENT.get(alone)).mean(1)) > 0.01
    beside = scale.map(query.copy(), reference=cells, n_threads=1)
    correlation = np.corrcoef(keys.LATENT.get(alone).ravel(), keys.LATENT.get(beside).ravel())
    assert correlation[0, 1] > 0.99


def test_model_files_that_are_refused(halves, kept_model, tmp_path):
    from scale_toolkit.model import files

    _, query = halves
    with pytest.raises(InputError, match="is a model file, which holds no cells and no labels"):
        scale.map(query.copy(), reference=kept_model[0], labels=("cell_type",))
    with pytest.raises(InputError, match="the model file is not a torch file, or damaged"):
        scale.map(query.copy(), reference=b"PK")
    buffer = io.BytesIO()
    torch.save({"encoder.hidden.0.weight": torch.zeros(2, 3)}, buffer)
    with pytest.raises(InputError, match=r"a model.pt of SCALE 1.1.2, which names no peaks"):
        scale.map(query.copy(), reference=buffer.getvalue())
    few = query[:, :150].copy()
    with pytest.raises(InputError, match=r"of the decoder's weight: of .* modelled peaks 0 have"):
        scale.map(few, reference=kept_model[0])
    other = query.copy()
    other.var_names = [f"peak_{number}" for number in range(query.n_vars)]
    with pytest.raises(InputError, match=r"none of the query's .*\(query: peak_0; reference: chr1"):
        scale.map(other, reference=kept_model[0])
    trained, names, facts = files.loads(kept_model[0])
    numbered = files.dumps(trained, [str(number) for number in range(len(names))], facts)
    with pytest.raises(InputError, match="the reference's peaks are numbered, not named"):
        scale.map(query.copy(), reference=numbered)


def test_later_stages_work_on_mapped_cells(mapped):
    cells = mapped.copy()
    scale.tl.cluster(cells, n_clusters=5, n_threads=1)
    scale.tl.impute(cells, numeric=True)
    assert np.isfinite(cells.obsm["imputed"]).all()
    scale.tl.embed(cells, n_threads=1)
    page = report.page(cells)
    assert "The cells were encoded by a model trained elsewhere" in page
    assert "Mapping to a reference" in page and "by overlap" in page and "median confidence" in page


def test_the_figure_shows_both_histograms(mapped, tmp_path):
    ax = scale.pl.novelty(mapped, save=tmp_path / "n.png")
    assert (tmp_path / "n.png").stat().st_size > 1000
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["reference", "new cells"]


def test_options_change_the_result(halves, mapped):
    trained, query = halves
    all_called = scale.tl.map(query, reference=trained, max_fdr=1.0, n_threads=1, copy=True)
    assert keys.NOT_IN_REFERENCE.get(all_called).all()
    other = scale.map(query.copy(), reference=trained, seed=1, n_threads=1)
    assert (keys.NOVELTY.get(other) != keys.NOVELTY.get(mapped)).any()
    assert "obs/scale_map_cell_type" not in receipts(other)[-1]["writes"]
    with pytest.raises(InputError, match=r"cover 6\d\.\d% of the decoder's weight.*at least 90%"):
        scale.map(query.copy(), reference=trained, min_weight=0.9)


def test_a_report_of_cells_that_are_mostly_new_warns(mapped):
    cells = mapped.copy()
    summary = dict(keys.MAPPING.get(cells))
    summary["n_called"] = 300
    keys.MAPPING.set(cells, summary)
    assert "75% of the cells are unlike the reference" in report.page(cells)


def test_another_experiment_warns(halves):
    trained, query = halves
    shifted = query.copy()
    rng = np.random.default_rng(0)
    noise = sparse.random(*shifted.shape, 0.1, format="csr", random_state=rng)
    shifted.X = sparse.csr_matrix(shifted.X + (noise > 0).astype(np.float32))
    with pytest.warns(ScaleWarning, match="the query as a group is"):
        scale.map(shifted, reference=trained, n_threads=1)


def test_cells_without_a_known_open_peak_lie_at_the_centre(halves):
    trained, query = halves
    cells = query.copy()
    cells.X = sparse.csr_matrix(
        sparse.diags_array((np.arange(cells.n_obs) > 0).astype(np.float32)) @ cells.X
    )
    with pytest.warns(ScaleWarning, match="1 cells have no open peak that the reference knows"):
        mapped = scale.map(cells, reference=trained, n_threads=1)
    assert np.isfinite(keys.LATENT.get(mapped)).all()


def test_what_is_refused(halves):
    trained, query = halves
    untrained = anndata.AnnData(trained.X, obs=trained.obs[["cell_type"]], var=trained.var[[]])
    with pytest.raises(
        InputError, match=r"the reference lacks obsm\['X_scale'\].*train the reference first"
    ):
        scale.map(query.copy(), reference=untrained)
    with pytest.raises(
        InputError, match=r"obs\['kind'\] is missing in the reference; expected one of .*cell_type"
    ):
        scale.map(query.copy(), reference=trained, labels=("kind",))
    nameless = trained.copy()
    nameless.var_names = [str(number) for number in range(trained.n_vars)]
    with pytest.raises(InputError, match="the reference's peaks are numbered, not named"):
        scale.map(query.copy(), reference=nameless)
    with pytest.raises(InputError, match="the reference has 19 cells"):
        scale.map(query.copy(), reference=trained[:19].copy())
    deep = trained.copy()
    keys.HIDDEN.set(deep, keys.LATENT.get(deep))
    with pytest.raises(InputError, match="decoder has hidden layers"):
        scale.map(query.copy(), reference=deep)
    twice = query.copy()
    twice.var_names = [query.var_names[0], query.var_names[0], *query.var_names[2:]]
    with pytest.raises(InputError, match="of the query is duplicated"):
        scale.map(twice, reference=trained)


def test_a_mapped_file_says_what_its_receipts_lack(mapped):
    with pytest.raises(InputError, match="map was given reference, which the file does not hold"):
        scale.verify(mapped)


def test_other_genomes_are_refused(halves):
    trained, query = halves
    table = parse_names(query.var_names)
    other = query.copy()
    other.var_names = [
        f"{c.removeprefix('chr')}:{s}-{e}" for c, s, e in table.itertuples(index=False)
    ]
    with pytest.raises(
        InputError, match=r"no chromosome of the peaks \(1.*is in the reference \(chr1"
    ):
        scale.map(other, reference=trained)
    other.var_names = [f"{c}:{s + 10**9}-{e + 10**9}" for c, s, e in table.itertuples(index=False)]
    with pytest.raises(
        InputError, match=r"none of the query's .* peaks is named as or overlaps one of"
    ):
        scale.map(other, reference=trained)
    few = query[:, :150].copy()
    with pytest.raises(
        InputError, match=r"cover \d\.\d% of the decoder's weight: of .* modelled peaks 0 have"
    ):
        scale.map(few, reference=trained)


def test_the_command_maps_and_shows(halves, tmp_path, capsys):
    trained, query = halves
    trained.write_h5ad(tmp_path / "trained.h5ad")
    query.write_h5ad(tmp_path / "new.h5ad")
    arguments = [
        "map",
        tmp_path / "new.h5ad",
        "--reference",
        tmp_path / "trained.h5ad",
        "--labels",
        "cell_type",
    ]
    arguments += ["-o", tmp_path / "mapped.h5ad", "--figure", tmp_path / "novelty.png"]
    with pytest.raises(SystemExit) as ended:
        app.main([str(argument) for argument in arguments])
    assert ended.value.code == 0
    result = anndata.read_h5ad(tmp_path / "mapped.h5ad")
    assert keys.label_slots("cell_type")[0].found_in(result) and (tmp_path / "novelty.png").exists()
    assert json.loads(keys.RECEIPTS.get(result))[-1]["stage"] == "map"
    assert "not in the reference" in capsys.readouterr().err


def test_the_command_maps_to_a_model_file(halves, kept_model, tmp_path, capsys):
    """Recognised by its content: the name says nothing."""
    _, query = halves
    (tmp_path / "kept").write_bytes(kept_model[0])
    query.write_h5ad(tmp_path / "new.h5ad")
    arguments = ["map", "new.h5ad", "--reference", "kept", "--update", "-o", "mapped.h5ad"]
    arguments = [
        str(tmp_path / word) if "." in word or word == "kept" else word for word in arguments
    ]
    with pytest.raises(SystemExit) as ended:
        app.main(arguments)
    assert ended.value.code == 0
    said = capsys.readouterr().err
    assert "a model file holds no cells to compare with: no labels, no novelty" in said
    assert "not in the reference" not in said
    result = anndata.read_h5ad(tmp_path / "mapped.h5ad")
    assert keys.POSTERIOR.found_in(result) and "n_called" not in keys.MAPPING.get(result)
    assert json.loads(keys.RECEIPTS.get(result))[-1]["options"]["update"] is True
    with pytest.raises(SystemExit) as ended:
        app.main(
            [*arguments[:-1], str(tmp_path / "again.h5ad"), "--figure", str(tmp_path / "n.png")]
        )
    assert ended.value.code == 2 and not (tmp_path / "again.h5ad").exists()
    assert "is a model file, without cells" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        app.main([*arguments[:-1], str(tmp_path / "again.h5ad"), "--labels", "cell_type"])
    assert ended.value.code == 1
    assert "give that one, or drop --labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no --reference"),
        (["--reference", "t.h5ad", "--figure", "f.doc"], "--figure is"),
    ],
)
def test_command_lines_that_are_refused(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.h5ad").write_bytes(b"x")
    with pytest.raises(SystemExit):
        app.main(["map", "new.h5ad", "-o", "out.h5ad", *arguments])
    assert words in capsys.readouterr().err
