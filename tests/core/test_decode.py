from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from scipy.special import expit

from scale_toolkit.core import decode
from scale_toolkit.core.decode import BinaryRows, Decoder, NumericRows, probabilities


def random_arrays(n_cells=70, n_peaks=1100, latent=10, seed=0, scale=1.0):
    """Float32 arrays as `train` stores them; more peaks than one tile is wide, more cells than one is high."""
    rng = np.random.default_rng(seed)
    hidden = scale * rng.normal(size=(n_cells, latent))
    weights = rng.normal(size=(n_peaks, latent))
    bias = rng.normal(-3, 1, n_peaks)
    offset = rng.normal(0, 1, n_cells)
    return tuple(value.astype(np.float32) for value in (hidden, weights, bias, offset))


def oracle(hidden, weights, bias, offset):
    """The definition, dense, in float64."""
    hidden, weights, bias, offset = (np.asarray(value, np.float64) for value in (hidden, weights, bias, offset))
    return expit(hidden @ weights.T + bias[None, :] + offset[:, None])


def rates(hidden, weights, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 0.2, len(hidden)), rng.uniform(0, 0.2, len(weights))


def whole(rows):
    blocks = list(rows.blocks())
    return sparse.vstack(blocks, format="csr") if rows.format == "csr" else np.concatenate(blocks)


def heights(n_peaks, *rows):
    return [4 * n_peaks * height for height in rows]


@pytest.mark.parametrize("latent", [1, 2, 10, 128, 300])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_values_are_those_of_a_dense_float64_oracle(latent, scale):
    values = random_arrays(40, 700, latent, scale=scale)
    made = probabilities(*values)
    assert made.dtype == np.float32 and made.shape == (40, 700)
    np.testing.assert_allclose(made, oracle(*values), rtol=1e-7, atol=np.finfo(np.float32).tiny)


def test_rows_and_columns_are_those_of_the_whole_to_the_bit():
    values = random_arrays()
    full = probabilities(*values)
    rng = np.random.default_rng(3)
    for rows, columns in [
        (slice(3, 4), slice(None)),
        (slice(1, 69), slice(5, 1003)),
        (np.array([66, 2, 2]), np.array([1090, 0, 513])),
        (rng.random(70) < 0.3, rng.random(1100) < 0.1),
        (slice(0, 0), slice(None)),
    ]:
        np.testing.assert_array_equal(probabilities(*values, rows, columns), full[rows][:, columns])


def test_blocks_of_any_height_give_the_same_bytes():
    values = random_arrays()
    decoder, full = Decoder(*values), probabilities(*values)
    cell_rate, peak_rate = rates(*values[:2])
    dense_bytes, sparse_bytes = set(), set()
    for block_bytes in [0, *heights(1100, 1, 7, 64, 70, 1000)]:
        dense_bytes.add(whole(NumericRows(decoder, block_bytes=block_bytes)).tobytes())
        binary = whole(BinaryRows(decoder, cell_rate, peak_rate, block_bytes=block_bytes))
        sparse_bytes.add((binary.indptr.tobytes(), binary.indices.tobytes(), binary.data.tobytes()))
    assert dense_bytes == {full.tobytes()}
    assert len(sparse_bytes) == 1


def test_a_value_does_not_depend_on_the_tile_it_is_made_in(monkeypatch):
    values = random_arrays(latent=32)
    full = probabilities(*values)
    for tile in [(1, 1), (3, 17), (64, 2048), (100, 64)]:
        monkeypatch.setattr(decode, "_TILE_ROWS", tile[0])
        monkeypatch.setattr(decode, "_TILE_COLUMNS", tile[1])
        assert probabilities(*values).tobytes() == full.tobytes()


@settings(deadline=None, max_examples=200)
@given(
    vectors=arrays(np.float32, (2, 12), elements=st.floats(-1e6, 1e6, width=32)),
    order=st.permutations(range(12)),
)
def test_the_split_sums_are_exact_in_any_order(vectors, order):
    from fractions import Fraction

    bits = decode._exact_bits(2 * 12)
    (h_high, h_low), (w_high, w_low) = (decode._split(vectors[[i]].astype(np.float64), bits) for i in (0, 1))
    for left, right in [
        (h_high[0], w_high[0]),
        (np.concatenate([h_high[0], h_low[0]]), np.concatenate([w_low[0], w_high[0]])),
    ]:
        exact = sum(Fraction(a) * Fraction(b) for a, b in zip(left, right))
        order = [*order, *range(12, len(left))]
        total = 0.0
        for k in order:
            total += left[k] * right[k]
        assert Fraction(float(total)) == exact


@settings(deadline=None, max_examples=100)
@given(vector=arrays(np.float32, (1, 8), elements=st.floats(-1e6, 1e6, width=32)))
def test_the_split_loses_nothing_that_counts(vector):
    bits = decode._exact_bits(16)
    high, low = decode._split(vector.astype(np.float64), bits)
    assert np.abs(high + low - vector.astype(np.float64)).max() <= np.abs(vector).max() * 2.0 ** (-2 * bits)


@pytest.mark.parametrize("seed", range(3))
def test_binary_is_the_oracle_thresholded_by_both_rates(seed):
    values = random_arrays(seed=seed)
    cell_rate, peak_rate = rates(*values[:2], seed=seed)
    made = whole(BinaryRows(Decoder(*values), cell_rate, peak_rate))
    expected = oracle(*values).astype(np.float32).astype(np.float64)
    expected = (expected > cell_rate[:, None]) & (expected > peak_rate[None, :])
    assert made.dtype == np.uint8 and made.has_canonical_format and set(made.data) == {1}
    np.testing.assert_array_equal(made.toarray().astype(bool), expected)
    assert 0.01 < expected.mean() < 0.9


def test_a_value_equal_to_its_rate_is_0():
    zero = np.zeros((1, 1), np.float32)
    half = Decoder(zero, zero, np.zeros(1), np.zeros(1))  # one value: exactly 0.5
    assert whole(BinaryRows(half, [0.5], [0.1])).nnz == 0
    assert whole(BinaryRows(half, [0.1], [0.5])).nnz == 0
    assert whole(BinaryRows(half, [np.nextafter(0.5, 0)], [np.nextafter(0.5, 0)])).nnz == 1


@given(rate=st.floats(0, 1), value=st.floats(0, 1, width=32))
def test_rates_in_float32_decide_as_in_float64(rate, value):
    rounded = decode._round_down(np.array([rate]))[0]
    assert (np.float32(value) > rounded) == (float(value) > rate)


def test_extreme_logits_saturate_without_a_warning():
    zero = np.zeros((1, 2))
    made = probabilities(zero, np.zeros((4, 2)), np.array([-1e4, -800.0, 800.0, 1e4]), np.zeros(1))
    np.testing.assert_array_equal(made, [[0, 0, 1, 1]])


@pytest.mark.parametrize("n_threads", [1, 3])
def test_stored_forms_are_roundings_of_the_values(n_threads):
    values = random_arrays()
    full = probabilities(*values)
    decoder = Decoder(*values)
    for dtype in ("float32", "float16", "uint8"):
        made = whole(NumericRows(decoder, dtype, n_threads=n_threads, block_bytes=heights(1100, 9)[0]))
        assert made.dtype == dtype
        if dtype == "uint8":
            assert np.abs(made * decode.UINT8_STEP - full).max() <= 1 / 510 + 1e-7
        else:
            np.testing.assert_array_equal(made, full.astype(dtype))


def test_a_block_stays_within_its_budget_and_blocks_can_be_read_twice():
    decoder = Decoder(*random_arrays())
    rows = NumericRows(decoder, block_bytes=heights(1100, 9)[0])
    first, second = list(rows.blocks()), list(rows.blocks())
    assert {block.shape[0] for block in first[:-1]} == {9}
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    assert rows.shape == (70, 1100) and rows.dtype == np.float32 and rows.format == "dense"
    assert Decoder(*random_arrays()).shape[0] * 1100 * 4 < decode.BLOCK_BYTES == 16 * 2**20


def test_shapes_that_do_not_agree_are_an_error():
    hidden, weights, bias, offset = random_arrays()
    with pytest.raises(ValueError, match="shapes do not agree"):
        Decoder(hidden[:, :3], weights, bias, offset)
    with pytest.raises(ValueError, match="shapes do not agree"):
        Decoder(hidden, weights, bias[:5], offset)
    with pytest.raises(ValueError, match="rates"):
        BinaryRows(Decoder(hidden, weights, bias, offset), np.zeros(3), np.zeros(len(bias)))
