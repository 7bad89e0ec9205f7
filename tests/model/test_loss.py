import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.special import expit
from scipy.stats import bernoulli

from scale_toolkit.model.draws import Draws
from scale_toolkit.model.loss import PeakSampler, open_logits, softplus_sum
from scale_toolkit.model.sparse import product


@pytest.fixture
def cells():
    """Open peaks (6 × 11) as CSR, and h, w, b, s in double."""
    rng = np.random.default_rng(2)
    opened = sparse.csr_matrix((rng.random((6, 11)) < 0.3).astype(np.float32))
    arrays = (rng.normal(size=(6, 4)), rng.normal(size=(11, 4)), rng.normal(size=11), rng.normal(size=6))
    return opened, [torch.from_numpy(a) for a in arrays]


def test_likelihood_is_scipys_bernoulli(cells):
    opened, (h, w, b, s) = cells
    probability = expit(h.numpy() @ w.numpy().T + b.numpy() + s.numpy()[:, None])
    expected = bernoulli.logpmf(opened.toarray(), probability).sum(1)
    got = open_logits(opened, h, w, b, s) - softplus_sum(h, w, b, s)
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_gradients_are_those_of_finite_differences(cells):
    opened, parts = cells

    def likelihood(h, w, b, s):
        return open_logits(opened, h, w, b, s) - softplus_sum(h, w, b, s)

    assert torch.autograd.gradcheck(likelihood, tuple(part.clone().requires_grad_() for part in parts))


def test_sparse_product_and_its_gradient_are_the_dense_ones(cells):
    opened, (_, w, *_) = cells
    dense = w.clone().requires_grad_()
    rows = w.clone().requires_grad_()
    upstream = torch.arange(24.0).double().reshape(6, 4)
    (torch.from_numpy(opened.toarray()).double() @ dense * upstream).sum().backward()
    (product(opened, rows) * upstream).sum().backward()
    np.testing.assert_allclose(rows.grad, dense.grad, rtol=1e-12)


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 2**31))
def test_sampled_softplus_sum_is_unbiased(n_peaks, size, seed):
    """The mean over every peak a stratum may give, times the stratum's size, is the sum itself."""
    rng = np.random.default_rng(seed)
    rates = rng.beta(0.5, 3, n_peaks)
    sampler = PeakSampler(rates, size)
    values = rng.random(n_peaks)
    ends = np.append(sampler._starts, n_peaks)
    strata = [sampler._order.numpy()[ends[i] : ends[i + 1]] for i in range(len(ends) - 1)]
    assert sorted(np.concatenate(strata)) == list(range(n_peaks))
    subset, scale = (part.numpy() for part in sampler.draw(Draws(seed), 0))
    assert all(peak in stratum for peak, stratum in zip(subset, strata, strict=True))
    np.testing.assert_array_equal(scale, [len(stratum) for stratum in strata])
    expectation = sum(w * values[stratum].mean() for w, stratum in zip(scale, strata, strict=True))
    assert expectation == pytest.approx(values.sum())


def test_sampled_draws_average_to_the_sum(cells):
    _, (h, w, b, s) = cells
    sampler = PeakSampler(expit(b.numpy()), 5)
    full = softplus_sum(h, w, b, s)
    draws = []
    for step in range(4000):
        subset, scale = sampler.draw(Draws(0), step)
        draws.append(softplus_sum(h, w, b, s, subset, scale.double()))
    draws = torch.stack(draws)
    error = (draws.mean(0) - full).abs() / (draws.std(0) / 4000**0.5)
    assert (error < 4.5).all()
    assert (draws.std(0) > 0).all()


@pytest.mark.parametrize("shifted", [False, True])
def test_the_sampled_sum_has_the_gradient_of_torchs_operations(shifted):
    rng = torch.Generator().manual_seed(0)
    subset, scale = torch.tensor([5, 0, 11, 7]), torch.tensor([1.0, 3, 2, 5], dtype=torch.float64)
    h, w, b, s = (
        torch.randn(shape, generator=rng, dtype=torch.float64, requires_grad=True) for shape in ((6, 3), (12, 3), (12,), (6,))
    )
    s = s.detach()
    shift = torch.randn((6, 4), generator=rng, dtype=torch.float64) if shifted else None
    upstream = torch.randn(6, generator=rng, dtype=torch.float64)
    logits = h @ w[subset].T + b[subset] + s[:, None] + (0 if shift is None else shift)
    expected = torch.nn.functional.softplus(logits) @ scale
    total = softplus_sum(h, w, b, s, subset, scale, shift)
    torch.testing.assert_close(total, expected)
    for gradient, correct in zip(
        *(torch.autograd.grad(value, (h, w, b), upstream) for value in (total, expected)), strict=True
    ):
        torch.testing.assert_close(gradient, correct)
