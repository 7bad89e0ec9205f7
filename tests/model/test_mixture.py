import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from sklearn.mixture import GaussianMixture
from torch.distributions import Independent, Normal, kl_divergence

from scale_toolkit.model.mixture import (
    MixturePrior,
    ReleasePrior,
    divergence,
    log_joint,
    standard_divergence,
)


@pytest.fixture
def parts():
    """Weights (4,), means and variances (4, 3), and z, mean, log variance of 7 cells, in double."""
    rng = np.random.default_rng(1)
    weights = rng.dirichlet(np.ones(4))
    means, variances = rng.normal(size=(4, 3)), rng.gamma(2, 0.5, (4, 3))
    cells = rng.normal(size=(3, 7, 3))
    return tuple(torch.from_numpy(a) for a in (weights, means, variances, *cells))


def numpy_divergence(gamma, mean, log_variance, weights, means, variances):
    """The four terms of science's ELBO, cell by cell and component by component."""
    total = np.zeros(len(mean))
    for i in range(len(mean)):
        for c in range(len(weights)):
            squared = np.exp(log_variance[i]) + (mean[i] - means[c]) ** 2
            log_p_z = -0.5 * np.sum(np.log(2 * np.pi) + np.log(variances[c]) + squared / variances[c])
            total[i] -= gamma[i, c] * (log_p_z + np.log(weights[c]) - np.log(gamma[i, c]))
        total[i] -= sum(norm(0, np.exp(0.5 * v)).entropy() for v in log_variance[i])
    return total


def test_log_joint_is_scipys_density(parts):
    weights, means, variances, z, *_ = parts
    arrays = zip(weights.numpy(), means.numpy(), variances.numpy(), strict=True)
    expected = np.stack([np.log(w) + multivariate_normal(m, np.diag(v)).logpdf(z.numpy()) for w, m, v in arrays], 1)
    np.testing.assert_allclose(log_joint(z, weights.log(), means, variances).numpy(), expected, rtol=1e-10)


def test_responsibilities_are_scikit_learns(parts):
    weights, means, variances, z, *_ = parts
    prior = MixturePrior(4, 3, variance_floor=0).double()
    prior.set(weights, means, variances)
    oracle = GaussianMixture(4, covariance_type="diag")
    oracle.weights_, oracle.means_, oracle.covariances_ = weights.numpy(), means.numpy(), variances.numpy()
    oracle.precisions_cholesky_ = 1 / np.sqrt(variances.numpy())
    np.testing.assert_allclose(prior.responsibilities(z).detach(), oracle.predict_proba(z.numpy()), rtol=1e-8)


def test_divergence_is_the_four_terms(parts):
    weights, means, variances, z, mean, log_variance = parts
    log_gamma = torch.log_softmax(log_joint(z, weights.log(), means, variances), 1)
    got = divergence(log_gamma, mean, log_variance, weights.log(), means, variances)
    arrays = [part.numpy() for part in (log_gamma.exp(), mean, log_variance, weights, means, variances)]
    np.testing.assert_allclose(got, numpy_divergence(*arrays), rtol=1e-10)


def test_divergence_from_one_component_is_torchs(parts):
    _, means, variances, _z, mean, log_variance = parts
    got = divergence(torch.zeros(7, 1).double(), mean, log_variance, torch.zeros(1).double(), means[:1], variances[:1])
    q = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    expected = kl_divergence(q, Independent(Normal(means[0], variances[0].sqrt()), 1))
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    standard = kl_divergence(q, Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1))
    np.testing.assert_allclose(standard_divergence(mean, log_variance), standard, rtol=1e-10)


def test_gradients_are_those_of_finite_differences(parts):
    weights, means, variances, z, mean, log_variance = parts

    def of(z, mean, log_variance, logits, means, log_variances):
        prior_weights = torch.log_softmax(logits, 0)
        log_gamma = torch.log_softmax(log_joint(z, prior_weights, means, log_variances.exp()), 1)
        return divergence(log_gamma, mean, log_variance, prior_weights, means, log_variances.exp())

    inputs = (z, mean, log_variance, weights.log(), means, variances.log())
    assert torch.autograd.gradcheck(of, tuple(part.clone().requires_grad_() for part in inputs))


def test_far_cell_keeps_sharp_responsibilities(parts):
    weights, means, variances, *_ = parts
    prior = MixturePrior(4, 3).double()
    prior.set(weights, means, variances)
    far = torch.full((1, 3), 1e3).double()
    gamma = prior.responsibilities(far)
    assert torch.isfinite(gamma).all()
    assert gamma.max() > 0.99
    release = ReleasePrior(4, 3).double()
    release.set(weights, means, variances)
    np.testing.assert_allclose(release.responsibilities(far).detach(), 0.25)  # the floor of the release


def test_release_is_its_own_formula(parts):
    weights, means, variances, z, mean, log_variance = parts
    prior = ReleasePrior(4, 3).double()
    prior.set(weights, means, variances)
    pi, mu, var = np.full(4, 0.25), means.numpy(), variances.numpy() + 1e-8
    density = np.stack([pi[c] * norm.pdf(z.numpy(), mu[c], np.sqrt(var[c])).prod(1) for c in range(4)], 1) + 1e-10
    gamma = density / density.sum(1, keepdims=True)
    np.testing.assert_allclose(prior.responsibilities(z).detach(), gamma, rtol=1e-7)
    expected = numpy_divergence(gamma, mean.numpy(), log_variance.numpy(), pi, mu, var + 1e-8)
    np.testing.assert_allclose(prior.divergence(z, mean, log_variance).detach(), expected, rtol=1e-6)


def test_mixture_stays_valid_whatever_the_parameters():
    prior = MixturePrior(3, 2)
    with torch.no_grad():
        prior.weight_logits.copy_(torch.tensor([-50.0, 0, 50]))
        prior.log_variances.fill_(-40)
    mixture = prior.parameters_of()
    assert mixture["weights"].sum().item() == pytest.approx(1)
    assert (mixture["variances"] > 0).all()
