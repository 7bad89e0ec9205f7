import numpy as np
import torch
from sklearn.mixture import GaussianMixture

from scale_toolkit.model.em import fit_mixture_on


def score(z, weights, means, variances):
    mixture = GaussianMixture(len(weights), covariance_type="diag")
    mixture.weights_, mixture.means_, mixture.covariances_ = weights, means, variances
    mixture.precisions_cholesky_ = variances**-0.5
    return mixture.score(z)


def test_mixture_is_as_good_as_scikit_learns():
    rng = np.random.default_rng(0)
    middles = rng.normal(0, 3, (8, 5)) + 10
    z = middles[rng.integers(8, size=2000)] + rng.normal(size=(2000, 5)) * rng.uniform(0.3, 1, 5)
    theirs = GaussianMixture(8, covariance_type="diag", reg_covar=1e-3, random_state=0).fit(z)
    weights, means, variances = fit_mixture_on(torch.device("cpu"), z, 8, 0)
    np.testing.assert_allclose(weights.sum(), 1)
    assert score(z, weights, means, variances) > theirs.score(z) - 0.1
    assert (variances > 0).all()


def test_fewer_distinct_points_than_components_stay_finite():
    z = np.repeat(np.arange(3.0)[:, None], 4, 0)
    for part in fit_mixture_on(torch.device("cpu"), z, 6, 0):
        assert np.isfinite(part).all()
