import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from scale_toolkit.core.clustering import partition_kmeans


def test_kmeans_finds_near_types_that_random_starts_merge():
    # eight far groups, each of two near types: ten random starts of k-means++ split wide groups instead
    rng = np.random.default_rng(0)
    far = rng.standard_normal((8, 6)) * 6
    near = np.repeat(far, 2, axis=0) + np.tile([[0.9], [-0.9]], (8, 6)) * 0.6
    truth = np.repeat(np.arange(16), rng.integers(50, 800, 16))
    latent = near[truth] + rng.standard_normal((len(truth), 6)) * 0.5
    alone = KMeans(16, n_init=10, random_state=18).fit(latent)
    labels = partition_kmeans(latent, 16, 10, 18)
    spread = sum(((latent[labels == c] - latent[labels == c].mean(0)) ** 2).sum() for c in range(16))
    assert spread < 0.999 * alone.inertia_
    assert adjusted_rand_score(truth, labels) > adjusted_rand_score(truth, alone.labels_)
