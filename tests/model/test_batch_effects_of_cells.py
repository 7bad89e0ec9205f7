"""What the encoder sees of cells of several batches is the same on the host, on a device, and copied to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from scale_toolkit.core.batch_effects import BatchEffects
from scale_toolkit.core.rows import MatrixRows
from scale_toolkit.core.weighting import fit_weighting
from scale_toolkit.model.batches import Shifts
from scale_toolkit.model.calibrate import margins
from scale_toolkit.model.cells import CellsOnDevice, CellsOnHost, CellsStreamed
from scale_toolkit.model.encoder_view import EncoderView
from scale_toolkit.model.held_out import hidden_likelihood
from scale_toolkit.model.kinship import VIEWS
from scale_toolkit.model.loss import softplus_sum
from scale_toolkit.model.products import products_of
from scale_toolkit.model.start import decoder_step

CPU = torch.device("cpu")


@pytest.fixture(params=[False, True], ids=["open", "log"])
def placed(request):
    rng = np.random.default_rng(0)
    counts = sparse.random(60, 300, 0.1, "csr", np.float32, rng, lambda n: rng.integers(1, 4, n).astype(np.float32))
    effects = BatchEffects(
        rng.integers(0, 3, 60).astype(np.int32),
        np.exp(rng.normal(0, 0.5, (3, 300))).astype(np.float32),
        rng.normal(0, 0.5, (3, 300)).astype(np.float32),
    )
    sums = np.asarray((counts > 0).sum(0)).ravel()
    see = EncoderView(request.param, fit_weighting(60, sums))
    source = MatrixRows(counts)
    plain = see(counts).toarray()
    expected = plain / effects.factors[effects.codes]
    cells = (
        CellsOnHost(source, see, CPU, effects),
        CellsOnDevice(source, see, CPU, effects=effects),
        CellsStreamed(source, see, CPU, effects=effects),
    )
    return cells, expected, effects, sums


def test_the_encoder_sees_weights_over_the_factors(placed):
    all_cells, expected, _, _ = placed
    index = np.array([5, 50, 7, 7])
    dense = torch.randn(300, 4)
    for cells in all_cells:
        np.testing.assert_allclose(cells.seen(index).times(dense), expected[index] @ dense.numpy(), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(
            cells.seen_at_once().times(dense), expected @ dense.numpy(), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@pytest.mark.parametrize("chosen", [None, np.array([3, 40, 41])], ids=["all", "some"])
def test_views_are_divided_too(placed, view, chosen):
    (host, device, _), _, effects, sums = placed
    rows = np.arange(60) if chosen is None else chosen
    opened = (host.source.matrix[rows].toarray() > 0).astype(np.float32)
    weights = view.peak_weights(sums, 60)
    weighted = opened * weights / effects.factors[effects.codes[rows]]
    dense, cells = torch.randn(300, 3), torch.randn(len(rows), 3)
    for placed_cells in (host, device):
        products = products_of(placed_cells).weighted(weights, chosen)
        np.testing.assert_allclose(products.times(dense), weighted @ dense.numpy(), rtol=1e-3, atol=2e-3)
        np.testing.assert_allclose(products.transposed_times(cells), weighted.T @ cells.numpy(), rtol=1e-3, atol=2e-3)
        np.testing.assert_allclose(products.square_norms(), np.square(weighted).sum(1), rtol=1e-4)


def test_the_map_sees_what_the_encoder_sees(placed):
    (host, device, _), expected, _, _ = placed
    dense = torch.randn(300, 3)
    for cells in (host, device):
        seen = products_of(cells).seen(cells.see)
        np.testing.assert_allclose(seen.times(dense), expected @ dense.numpy(), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(seen.square_norms(), np.square(expected).sum(1), rtol=1e-4)


def test_logits_are_shifted_by_the_batch(placed):
    (host, _, _), _, effects, _ = placed
    rng = np.random.default_rng(1)
    h, weight = (torch.from_numpy(rng.normal(size=size).astype(np.float32)) for size in ((60, 2), (300, 2)))
    bias, offset = torch.zeros(300), torch.zeros(60)
    logits = (h @ weight.T).numpy() + effects.logits[effects.codes]
    shifts = Shifts.of_cells(host, effects)
    shift, open_shift = shifts.of(torch.arange(60), None)
    np.testing.assert_allclose(
        softplus_sum(h, weight, bias, offset, shift=shift), np.log1p(np.exp(logits)).sum(1), rtol=1e-5
    )
    opened = (host.source.matrix > 0).toarray()
    np.testing.assert_allclose(open_shift, (opened * effects.logits[effects.codes]).sum(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(shifts.of(torch.arange(60), torch.tensor([4, 9]))[0], shift[:, [4, 9]])
    p = 1 / (1 + np.exp(-logits))
    expected = (np.log(p) - np.log(p.sum(1, keepdims=True)))[opened].mean()
    hidden = sparse.csr_matrix(opened.astype(np.float32))
    likelihood = hidden_likelihood(hidden, h, weight, bias, offset, (effects.logits, effects.codes))
    assert likelihood == pytest.approx(expected, rel=1e-4)


def test_margins_hold_with_the_shifts():
    rng = np.random.default_rng(2)
    h, weight, offset = rng.normal(size=(40, 2)), rng.normal(size=(50, 2)), rng.normal(size=40)
    logits, codes, size = rng.normal(size=(3, 50)), rng.integers(0, 3, 40), rng.integers(1, 5, 40).astype(float)
    target = rng.uniform(5, 60, 50)
    b = margins(h, weight, offset, size, target, np.zeros(50), shift=(logits.astype(np.float32), codes))
    p = 1 / (1 + np.exp(-(h @ weight.T + offset[:, None] + b + logits[codes])))
    np.testing.assert_allclose(size @ p, target, rtol=1e-3)


def test_the_decoder_does_not_learn_the_batch(placed):
    """z that is the batch: what the shifts explain gives no loadings."""
    (host, _, _), _, effects, _ = placed
    rng = np.random.default_rng(3)
    p = 1 / (1 + np.exp(-(-1.5 + effects.logits[effects.codes])))
    matrix = sparse.csr_matrix((rng.random(p.shape) < p).astype(np.float32))
    z = (effects.codes[:, None] - 1.0).astype(np.float32)
    loadings = []
    for known in (None, effects):
        cells = CellsOnHost(MatrixRows(matrix), host.see, CPU, known)
        loadings.append(decoder_step(cells, z, np.zeros(60), np.full(300, -1.5), 1.0))
    assert np.square(loadings[1]).mean() < 0.7 * np.square(loadings[0]).mean()
