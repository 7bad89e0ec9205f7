from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.special import expit

import scale_toolkit
from scale_toolkit import keys
from scale_toolkit.config import ImputeConfig
from scale_toolkit.errors import (
    InputError,
    MissingSlotError,
    NothingLeftError,
    OptionError,
    ScaleWarning,
)
from scale_toolkit.stages.impute import impute, streamed
from scale_toolkit.stages.receipts import receipts


def trained_like(n_cells=30, n_peaks=80, latent=4, seed=0, unmodelled=()) -> anndata.AnnData:
    """An AnnData with what `train` leaves for `impute`, and no X."""
    rng = np.random.default_rng(seed)
    adata = anndata.AnnData(
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)]),
        var=pd.DataFrame(index=[f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(n_peaks)]),
    )
    bias = rng.normal(-2, 1, n_peaks).astype(np.float32)
    weights = rng.normal(size=(n_peaks, latent)).astype(np.float32)
    bias[list(unmodelled)], weights[list(unmodelled)] = np.nan, 0
    keys.DECODER.set(adata, weights)
    keys.BIAS.set(adata, bias)
    keys.OFFSET.set(adata, rng.normal(0, 0.5, n_cells).astype(np.float32))
    keys.MEDIAN_OFFSET.set(adata, float(np.median(keys.OFFSET.get(adata))))
    keys.LATENT.set(adata, rng.normal(size=(n_cells, latent)).astype(np.float32))
    keys.CELL_OPEN_RATE.set(adata, rng.uniform(0.05, 0.3, n_cells))
    keys.PEAK_OPEN_RATE.set(adata, rng.uniform(0.05, 0.3, n_peaks))
    return adata


def dense(adata, hidden=keys.LATENT, depth="equal"):
    """The definition, in float64, over all peaks of `adata`."""
    logit = np.asarray(hidden.get(adata), float) @ np.asarray(keys.DECODER.get(adata), float).T
    offset = keys.OFFSET.get(adata).to_numpy(float)
    if depth == "equal":
        offset = np.full(adata.n_obs, adata.uns.get("scale_median_offset", np.median(offset)))
    return expit(logit + keys.BIAS.get(adata).to_numpy(float)[None, :] + offset[:, None])


def dense_binary(adata):
    p = dense(adata, depth="own").astype(np.float32)
    above_cell = p > keys.CELL_OPEN_RATE.get(adata).to_numpy()[:, None]
    return above_cell & (p > keys.PEAK_OPEN_RATE.get(adata).to_numpy()[None, :])


def test_numeric_is_made_where_nothing_is_asked():
    adata = trained_like()
    made = impute(adata)
    np.testing.assert_allclose(made.obsm["imputed"], dense(adata), atol=1e-6)
    assert made.obsm["imputed"].dtype == np.float32
    assert "binary" not in made.obsm
    assert list(made.uns["scale_imputed_peaks"]) == list(adata.var_names)


@pytest.mark.parametrize("depth", ["equal", "own"])
def test_depth_is_that_of_the_data_or_of_the_cell(depth):
    adata = trained_like()
    made = impute(adata.copy(), depth=depth)
    np.testing.assert_allclose(made.obsm["imputed"], dense(adata, depth=depth), atol=1e-6)
    assert receipts(made)[-1]["options"]["depth"] == depth
    assert np.abs(dense(adata, depth="own") - dense(adata)).max() > 0.1


def test_cells_that_differ_in_depth_alone_have_equal_values():
    adata = trained_like()
    keys.LATENT.get(adata)[:] = keys.LATENT.get(adata)[0]
    assert np.ptp(impute(adata.copy()).obsm["imputed"], axis=0).max() == 0
    assert np.ptp(impute(adata, depth="own").obsm["imputed"], axis=0).max() > 0.1


def test_a_file_without_the_median_takes_that_of_its_cells():
    adata = trained_like()
    keys.MEDIAN_OFFSET.drop(adata)
    np.testing.assert_allclose(impute(adata[:7].copy()).obsm["imputed"], dense(adata[:7].copy()), atol=1e-6)
    assert np.abs(dense(adata[:7]) - dense(trained_like())[:7]).max() > 0.01  # the median of all cells is another


def test_train_writes_the_median_depth(plant):
    trained = scale_toolkit.train(plant(60, 100), n_components=3, max_iter=10, n_threads=1)
    assert keys.MEDIAN_OFFSET.get(trained) == np.median(keys.OFFSET.get(trained))


def test_binary_takes_each_cells_own_depth():
    equal, own = (impute(trained_like(), numeric=True, binary=True, depth=depth) for depth in ("equal", "own"))
    assert (equal.obsm["binary"] != own.obsm["binary"]).nnz == 0
    rates = keys.CELL_OPEN_RATE.get(own).to_numpy()[:, None], keys.PEAK_OPEN_RATE.get(own).to_numpy()
    again = (own.obsm["imputed"] > rates[0]) & (own.obsm["imputed"] > rates[1])
    np.testing.assert_array_equal(own.obsm["binary"].toarray().astype(bool), again)


def test_one_text_names_one_peak_or_interval():
    as_text, as_list = (impute(trained_like(), peaks=peaks) for peaks in ("chr1:2000-2500", ["chr1:2000-2500"]))
    np.testing.assert_array_equal(as_text.obsm["imputed"], as_list.obsm["imputed"])
    assert receipts(as_text) == receipts(as_list)
    assert list(impute(trained_like(), peaks="chr1:1,900-2,001").uns["scale_imputed_peaks"]) == ["chr1:2000-2500"]
    assert list(impute(trained_like(), peaks="chr1-1900-2001").uns["scale_imputed_peaks"]) == ["chr1:2000-2500"]


@pytest.mark.parametrize(("peaks", "words"), [(7, "peaks is 7"), ([1, 2], r"peaks is \[1, 2\]")])
def test_peaks_that_are_not_names_are_refused(peaks, words):
    with pytest.raises(InputError, match=words + "; expected a list of names or intervals"):
        impute(trained_like(), peaks=peaks)


def test_an_empty_list_of_peaks_is_refused():
    with pytest.raises(NothingLeftError, match="peaks is empty"):
        impute(trained_like(), peaks=[])


def test_means_of_groups_obey_the_number_of_threads(monkeypatch):
    from scale_toolkit.core import decode

    seen, in_order = [], decode.in_order
    monkeypatch.setattr(decode, "in_order", lambda *words: (seen.append(words[2]), in_order(*words))[1])
    adata = trained_like()
    adata.obs["group"] = ["a", "b"] * 15
    impute(adata, per_group="group", n_threads=1)
    assert seen == [1]


def test_binary_is_bit_for_bit_the_definition_and_alone():
    made = impute(trained_like(), binary=True)
    assert "imputed" not in made.obsm
    assert isinstance(made.obsm["binary"], sparse.csr_matrix) and made.obsm["binary"].dtype == np.uint8
    np.testing.assert_array_equal(made.obsm["binary"].toarray().astype(bool), dense_binary(trained_like()))


def test_numeric_with_binary_gives_both():
    made = impute(trained_like(), numeric=True, binary=True)
    assert {"imputed", "binary"} <= set(made.obsm)


@pytest.mark.parametrize(("form", "off"), [("float32", 1e-6), ("float16", 0.00025), ("uint8", 1 / 510 + 1e-6)])
@pytest.mark.parametrize("to", ["obsm", "layers"])
def test_numeric_formats_are_as_near_as_they_say(form, off, to):
    wanted = dense(trained_like())
    made = impute(trained_like(), numeric_format=form, to=to)
    stored = getattr(made, to)["imputed"]
    assert stored.dtype == form
    back = scale_toolkit.unpack_numeric(made)
    assert back.dtype == np.float32
    assert np.abs(back - wanted).max() <= off
    assert (np.abs(back - wanted).max() > off / 10) == (form != "float32")
    np.testing.assert_array_equal(scale_toolkit.unpack_numeric(made, ["cell4", "cell2"]), back[[4, 2]])
    if form == "uint8":
        np.testing.assert_allclose(back, stored * made.uns["scale_imputed_step"], rtol=1e-6)
    else:
        assert "scale_imputed_step" not in made.uns


def test_packed_bits_are_the_definition_and_unpack():
    made = impute(trained_like(n_peaks=83, unmodelled=(5,)), binary=True, binary_format="packed")
    assert "binary" not in made.obsm
    seen = np.setdiff1d(np.arange(83), [5])
    wanted = dense_binary(trained_like(n_peaks=83, unmodelled=(5,)))[:, seen]
    assert made.obsm["binary_packed"].shape == (30, 11)
    np.testing.assert_array_equal(made.obsm["binary_packed"], np.packbits(wanted, axis=1, bitorder="little"))
    mask = np.arange(30) % 3 == 1
    for cells, rows in [(None, slice(None)), (slice(3, 9),) * 2, (mask,) * 2, ([7, 2],) * 2, (["cell3"], [3])]:
        csr = scale_toolkit.unpack_binary(made, cells)
        assert isinstance(csr, sparse.csr_matrix) and csr.dtype == np.uint8 and csr.has_canonical_format
        np.testing.assert_array_equal(csr.toarray(), wanted[rows])
        np.testing.assert_array_equal(scale_toolkit.unpack_binary(made, cells, dense=True), wanted[rows])
    made.uns["scale_imputed_peaks"] = made.uns["scale_imputed_peaks"][:20]
    with pytest.raises(InputError, match=r"binary_packed'\] has 11 bytes a cell; expected 3 for the 20 peaks"):
        scale_toolkit.unpack_binary(made)


def test_what_was_not_imputed_cannot_be_unpacked():
    with pytest.raises(MissingSlotError, match="scale impute"):
        scale_toolkit.unpack_binary(trained_like())
    with pytest.raises(MissingSlotError, match="scale impute --numeric"):
        scale_toolkit.unpack_numeric(trained_like())


def test_packed_bits_are_no_layer():
    with pytest.raises(OptionError, match="binary_format is packed and to is layers; expected to obsm"):
        impute(trained_like(), binary=True, binary_format="packed", to="layers")


@pytest.mark.parametrize("n_threads", [1, 3])
def test_threads_change_no_value(n_threads):
    made = impute(trained_like(), numeric=True, binary=True, n_threads=n_threads)
    np.testing.assert_array_equal(made.obsm["imputed"], impute(trained_like()).obsm["imputed"])
    np.testing.assert_array_equal(made.obsm["binary"].toarray(), dense_binary(trained_like()))
    assert receipts(made)[-1]["threads"] == n_threads


def test_to_layers_writes_layers_of_the_same_values():
    in_obsm, in_layers = (impute(trained_like(), numeric=True, binary=True, to=to) for to in ("obsm", "layers"))
    np.testing.assert_array_equal(in_layers.layers["imputed"], in_obsm.obsm["imputed"])
    assert (in_layers.layers["binary"] != in_obsm.obsm["binary"]).nnz == 0
    assert "imputed" not in in_layers.obsm and "imputed" not in in_obsm.layers
    assert "scale_imputed_peaks" not in in_layers.uns  # anndata subsets a layer's peaks itself


def test_peaks_the_model_has_not_seen_are_left_out():
    adata = trained_like(unmodelled=(0, 7, 79))
    seen = np.setdiff1d(np.arange(80), [0, 7, 79])
    expected, expected_binary = dense(adata)[:, seen], dense_binary(adata)[:, seen]
    made = impute(adata, numeric=True, binary=True)
    np.testing.assert_allclose(made.obsm["imputed"], expected, atol=1e-6)
    np.testing.assert_array_equal(made.obsm["binary"].toarray().astype(bool), expected_binary)
    assert list(made.uns["scale_imputed_peaks"]) == list(adata.var_names[seen])


def test_layers_need_every_peak_modelled():
    with pytest.raises(InputError, match=r"79 of 80 peaks were modelled; expected all of them.*write to obsm"):
        impute(trained_like(unmodelled=(3,)), to="layers")


def test_cells_and_peaks_chosen_after_training_are_imputed_as_such():
    adata = trained_like()
    expected = dense(adata)
    rows, columns = [4, 1, 20], [70, 3, 11, 5]
    chosen = adata[rows][:, columns]  # a view
    made = impute(chosen)
    assert not made.is_view
    np.testing.assert_allclose(made.obsm["imputed"], expected[np.ix_(rows, columns)], atol=1e-6)
    assert list(made.uns["scale_imputed_peaks"]) == list(adata.var_names[columns])
    assert "imputed" not in adata.obsm


def test_a_decoder_with_hidden_layers_is_linear_in_its_last():
    adata = trained_like()
    rng = np.random.default_rng(5)
    keys.HIDDEN.set(adata, rng.random((30, 6)).astype(np.float32))
    keys.DECODER.set(adata, rng.normal(size=(80, 6)).astype(np.float32))
    np.testing.assert_allclose(impute(adata).obsm["imputed"], dense(adata, keys.HIDDEN), atol=1e-6)


def test_x_is_not_read():
    with_x = trained_like()
    with_x.X = sparse.csr_matrix(np.full((30, 80), np.nan, np.float32))
    with_x, without = impute(with_x, binary=True), impute(trained_like(), binary=True)
    assert (with_x.obsm["binary"] != without.obsm["binary"]).nnz == 0
    assert receipts(with_x) == receipts(without)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"binary": True},
        {"numeric": True, "binary": True, "to": "layers"},
        {"numeric": True, "numeric_format": "uint8", "binary": True, "binary_format": "packed"},
    ],
)
def test_streamed_gives_the_same_values_and_the_same_receipt(options):
    whole = impute(trained_like(), **options)
    for adata, rows in [streamed(trained_like(), ImputeConfig(**options)), streamed(trained_like(), **options)]:
        assert receipts(adata) == receipts(whole) and len(receipts(adata)) == 1
        assert adata.uns.keys() == whole.uns.keys()
        assert not {"imputed", "binary"} & {*adata.obsm, *adata.layers}
        expected = {
            f"{w}/{n}": v
            for w in ("obsm", "layers")
            for n, v in getattr(whole, w).items()
            if n in ("imputed", "binary", "binary_packed")
        }
        assert set(rows) == set(expected)
        for path, source in rows.items():
            blocks = list(source.blocks())
            made = sparse.vstack(blocks).toarray() if source.format == "csr" else np.concatenate(blocks)
            wanted = expected[path].toarray() if source.format == "csr" else expected[path]
            assert made.tobytes() == wanted.tobytes() and source.shape == made.shape and source.dtype == made.dtype


def test_an_older_result_of_other_peaks_is_removed_and_one_of_the_same_kept():
    adata = impute(trained_like())
    kept = impute(adata.copy(), binary=True)
    assert {"imputed", "binary"} <= set(kept.obsm)
    packed = impute(kept.copy(), binary=True, binary_format="packed")
    assert {"imputed", "binary", "binary_packed"} <= set(packed.obsm)
    with pytest.warns(ScaleWarning, match=r"obsm\['binary_packed'\] is removed"):
        assert set(impute(packed[:, :20].copy(), numeric=True, binary=True).obsm) == {"X_scale", "imputed", "binary"}
    with pytest.warns(ScaleWarning, match=r"obsm\['imputed'\] is removed: its columns are other peaks than the 20"):
        fewer = impute(adata[:, :20].copy(), binary=True)
    assert "imputed" not in fewer.obsm and fewer.obsm["binary"].shape == (30, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert impute(adata[:, :20].copy()).obsm["imputed"].shape == (30, 20)


def test_progress_tells_the_cells_done():
    told = []
    impute(trained_like(), numeric=True, binary=True, progress=lambda *words: told.append(words))
    assert told == [("computing obsm/imputed", 30, 30), ("computing obsm/binary", 30, 30)]


@pytest.mark.parametrize("slot", [keys.DECODER, keys.BIAS, keys.OFFSET, keys.LATENT])
def test_an_untrained_file_is_told_to_be_trained(slot):
    adata = trained_like()
    slot.drop(adata)
    with pytest.raises(MissingSlotError, match=rf"{slot.name}.*scale train"):
        impute(adata)


@pytest.mark.parametrize("slot", [keys.CELL_OPEN_RATE, keys.PEAK_OPEN_RATE])
def test_rates_are_needed_for_binary_only(slot):
    adata = trained_like()
    slot.drop(adata)
    with pytest.raises(MissingSlotError, match=r"scale_open_rate.*scale train"):
        impute(adata, binary=True)
    assert impute(adata).obsm["imputed"].shape == (30, 80)


def test_joined_files_with_gaps_are_an_error():
    adata = trained_like()
    adata.obs["scale_offset"] = adata.obs["scale_offset"].where(np.arange(30) != 2)
    with pytest.raises(InputError, match=r"obs\['scale_offset'\] has 1 of 30 values that are NaN"):
        impute(adata)
    with pytest.raises(InputError, match="scale_offset"):
        streamed(adata)


def test_slots_of_two_models_are_an_error():
    adata = trained_like()
    keys.HIDDEN.set(adata, np.zeros((30, 6), np.float32))
    with pytest.raises(InputError, match=r"scale_hidden'\] has 6 columns and varm\['scale_decoder'\] has 4"):
        impute(adata)


def test_no_modelled_peak_left_is_an_error():
    adata = trained_like(unmodelled=(1, 2))
    with pytest.raises(NothingLeftError, match="none of the 2 peaks was modelled"):
        impute(adata[:, [1, 2]].copy())


def test_an_unknown_place_is_an_error():
    with pytest.raises(OptionError, match="to is 'varm'; expected one of obsm, layers"):
        impute(trained_like(), to="varm")


def test_the_result_can_be_written_and_read(tmp_path):
    made = impute(trained_like(), numeric=True, binary=True)
    made.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(back.obsm["imputed"], made.obsm["imputed"])
    assert back.obsm["binary"].dtype == np.uint8
    assert list(back.uns["scale_imputed_peaks"]) == list(made.var_names)
