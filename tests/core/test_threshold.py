from __future__ import annotations

import errno
import threading
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.special import expit

from scale_toolkit.core import threshold
from scale_toolkit.core.decode import BinaryRows, Decoder
from scale_toolkit.core.threshold import TILE, Thresholds, logit_above
from scale_toolkit.lazy import in_order


def random_decoder(n_cells=41, n_peaks=2 * TILE + 37, latent=10, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    hidden, weights = scale * rng.normal(size=(n_cells, latent)), rng.normal(size=(n_peaks, latent))
    arrays = hidden, weights, rng.normal(-2, 1, n_peaks), rng.normal(0, 0.5, n_cells)
    return Decoder(*(value.astype(np.float32) for value in arrays))


def definition(decoder, cell_rate, peak_rate):
    """The float32-rounded probability of the exact arithmetic, compared in float64."""
    p = decoder.probabilities().astype(np.float64)
    return (p > np.asarray(cell_rate, np.float64)[:, None]) & (p > np.asarray(peak_rate, np.float64)[None, :])


def made(decoder, cell_rate, peak_rate, **options):
    return np.concatenate([b.toarray() for b in BinaryRows(decoder, cell_rate, peak_rate, **options).blocks()]).astype(bool)


@pytest.mark.parametrize("latent", [1, 2, 3, 10, 128, 300])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_equal_to_the_definition(latent, scale):
    decoder = random_decoder(latent=latent, scale=scale)
    rng = np.random.default_rng(latent)
    cell_rate, peak_rate = rng.uniform(0, 0.3, decoder.shape[0]), rng.uniform(0, 0.3, decoder.shape[1])
    cell_rate[:2], peak_rate[:3], peak_rate[-2:] = (0, 1), (0, 1, 0.5), (1, 0)
    wanted = definition(decoder, cell_rate, peak_rate)
    np.testing.assert_array_equal(made(decoder, cell_rate, peak_rate), wanted)
    assert 0.01 < wanted.mean() < 0.9


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    latent=st.sampled_from([1, 4, 10, 33]),
    scale=st.sampled_from([1e-6, 0.1, 1.0, 20.0]),
    shift=st.sampled_from([-90.0, -20.0, 0.0, 8.0, 14.0]),
)
def test_equal_where_every_rate_is_one_of_the_values_or_next_to_it(seed, latent, scale, shift):
    rng = np.random.default_rng(seed)
    base = random_decoder(23, 300, latent, seed, scale)
    decoder = Decoder(base.hidden, base.weights, base.bias + shift, base.offset)
    values = decoder.probabilities()
    peak_rate = values[rng.integers(0, 23, 300), np.arange(300)]
    for toward in (np.float32(0), np.float32(1)):
        chosen = rng.random(300) < 0.3
        peak_rate[chosen] = np.nextafter(peak_rate[chosen], toward)
    peak_rate = peak_rate.astype(np.float64)
    for toward in (0.0, 1.0):  # between two float32
        chosen = rng.random(300) < 0.3
        peak_rate[chosen] = np.nextafter(peak_rate[chosen], toward)
    cell_rate = np.where(rng.random(23) < 0.5, 0, values[np.arange(23), rng.integers(0, 300, 23)])
    np.testing.assert_array_equal(made(decoder, cell_rate, peak_rate), definition(decoder, cell_rate, peak_rate))


@pytest.mark.parametrize(("error64", "way"), [(2e-5, "some"), (1.0, "all")])
def test_what_no_precision_can_tell_is_the_definitions(monkeypatch, error64, way):
    decoder = random_decoder()
    rng = np.random.default_rng(2)
    cell_rate, peak_rate = rng.uniform(0, 0.3, decoder.shape[0]), rng.uniform(0, 0.3, decoder.shape[1])
    wanted = definition(decoder, cell_rate, peak_rate)
    asked = []
    original = Decoder.probabilities

    def spy(self, rows, columns=slice(None)):
        asked.append(columns)
        return original(self, rows, columns)

    monkeypatch.setattr(Decoder, "probabilities", spy)
    thresholds = Thresholds(decoder, peak_rate.astype(np.float32))
    thresholds._errors = thresholds._errors[0], error64
    bits = thresholds.bits(slice(0, decoder.shape[0]), cell_rate.astype(np.float32))
    got = np.unpackbits(bits, axis=1, bitorder="little", count=decoder.shape[1]).astype(bool)
    np.testing.assert_array_equal(got, wanted)
    if way == "all":  # more than are listed: the block is made as the definition has it
        assert asked == [slice(None)]
    else:
        assert asked and all(isinstance(columns, np.ndarray) for columns in asked)
    # a wrong definition would be seen: what is asked decides
    monkeypatch.setattr(Decoder, "probabilities", lambda *words: 1 - original(*words))
    turned = np.unpackbits(thresholds.bits(slice(0, 41), cell_rate.astype(np.float32)), axis=1, bitorder="little")
    assert (turned[:, : decoder.shape[1]].astype(bool) != wanted).any()


def test_of_a_usual_model_next_to_nothing_is_left_to_the_definition(monkeypatch):
    decoder = random_decoder(200)
    monkeypatch.setattr(Decoder, "probabilities", lambda *_: pytest.fail("asked"))
    rng = np.random.default_rng(3)
    assert made(decoder, rng.uniform(0, 0.3, 200), rng.uniform(0, 0.3, decoder.shape[1])).any()


@pytest.mark.parametrize("size", [1e25, 1e60, 1e150])
def test_values_that_float32_cannot_hold(size):
    decoder = random_decoder(9, 70, 3)
    decoder = Decoder(decoder.hidden.astype(float) * size, decoder.weights * size, decoder.bias, decoder.offset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = made(decoder, np.full(9, 0.2), np.full(70, 0.3))
    np.testing.assert_array_equal(got, definition(decoder, np.full(9, 0.2), np.full(70, 0.3)))


@given(rate=st.floats(0, 1, width=32))
def test_the_threshold_is_the_logit_of_the_midpoint(rate):
    rate = np.float32(rate)
    cut = logit_above(np.array([rate]))[0]
    if rate == 1:
        assert cut == np.inf
        return
    # rounding to float32 is the oracle: just above sigmoid(cut) it exceeds the rate, just below it does not
    p = expit(cut)
    away = 4e-15 * max(abs(cut), 1) / (1 - p)
    assert np.float32(p * (1 + away)) > rate and np.float32(p * (1 - away)) <= rate


def test_rates_outside_the_unit_interval_keep_the_meaning_of_the_comparison():
    np.testing.assert_array_equal(logit_above(np.array([-1, -1e-40, 1, 2, np.nan], np.float32)), [-np.inf] * 2 + [np.inf] * 3)


@pytest.mark.parametrize("n_peaks", [1, 7, 8, 9, 63, 64, 65, TILE, TILE + 1])
@pytest.mark.parametrize("n_cells", [1, 2, 5])
def test_packed_bits_are_those_of_numpy(n_cells, n_peaks):
    decoder = random_decoder(n_cells, n_peaks)
    rates = np.full(n_cells, 0.1), np.full(n_peaks, 0.12)
    packed = np.concatenate(list(BinaryRows(decoder, *rates, packed=True, block_bytes=4 * n_peaks * 2).blocks()))
    np.testing.assert_array_equal(packed, np.packbits(definition(decoder, *rates), axis=1, bitorder="little"))
    np.testing.assert_array_equal(made(decoder, *rates), definition(decoder, *rates))


def test_csr_blocks_are_canonical_and_made_of_ones():
    rows = BinaryRows(random_decoder(), np.zeros(41), np.full(2 * TILE + 37, 0.1), block_bytes=13_000)
    assert rows.all_ones
    for block in rows.blocks():
        assert block.dtype == np.uint8 and (block.data == 1).all()
        assert block.indices.dtype == np.int32
        again = sparse.csr_matrix((block.data, block.indices, block.indptr), shape=block.shape)
        assert again.has_canonical_format and block.has_canonical_format  # as scipy finds, and as was said


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_change_nothing(n_threads):
    decoder = random_decoder()
    rates = np.full(41, 0.1), np.full(decoder.shape[1], 0.1)
    wanted = definition(decoder, *rates)
    np.testing.assert_array_equal(made(decoder, *rates, n_threads=n_threads, block_bytes=4 * 3 * decoder.shape[1]), wanted)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_blocks_are_made_in_order_few_ahead_and_in_so_many_threads(n_threads):
    begun, threads, lock = [], set(), threading.Lock()

    def make(i):
        with lock:
            begun.append(i)
            threads.add(threading.get_ident())
        return i

    for at, i in enumerate(in_order(make, range(50), n_threads)):
        assert i == at
        assert len(begun) <= at + n_threads + 1
    assert sorted(begun) == list(range(50))
    assert len(threads) <= n_threads
    assert (threads == {threading.get_ident()}) == (n_threads == 1)


def test_a_reader_that_stops_leaves_no_thread():
    before = threading.active_count()
    blocks = in_order(lambda i: i, range(1000), 3)
    assert next(blocks) == 0
    blocks.close()
    assert threading.active_count() == before


def test_an_error_of_a_block_is_raised_where_it_is_read():
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda i: 1 // (3 - i), range(9), 2))


def test_the_kernels_do_without_a_cache(monkeypatch):
    from numba import types
    from numba.core import caching

    signature = types.int64(types.int64)
    monkeypatch.setattr(caching.FunctionCache._impl_class, "_locator_classes", [])  # nowhere to write
    assert threshold.compiled(signature)(lambda x: x + 1)(2) == 3
    monkeypatch.undo()

    def full(*_words):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)

    def plus_two(x):
        return x + 2

    assert threshold.compiled(signature)(plus_two)(2) == 4
