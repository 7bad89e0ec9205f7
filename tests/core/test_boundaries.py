"""How many splits of nested partitions are real."""

import numpy as np
import pytest

from scale_toolkit.core.boundaries import Splits, boundary_ratio


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([0.0, 0.1, 0.9, 1.0], 3),
        ([0.9, 1.0], 1),
        ([0.0, 0.1], 3),
        # 200,000 simulated cells of 12 types: the last boundary is clear beside those within types
        ([0.0, 0.1, 0.2, 0.5, 0.98, 1.0], 5),
        # no gap stands out among ratios of continuous types
        ([0.05, 0.2, 0.35, 0.45, 0.55, 0.6, 0.7, 0.8], 3),
        # ratios above 1 count as 1: the jump to 1.94 does not look like a gap
        ([0.04, 0.62, 0.76, 1.07, 1.94, 1.0], 2),
        # cells that are all equal
        ([np.nan, 1.0], 1),
    ],
)
def test_splits_end_below_the_bound_or_at_the_widest_gap(ratios, expected):
    groups = tuple((i,) for i in range(1, len(ratios) + 1))
    splits = Splits(np.arange(len(ratios) + 1), groups, np.array(ratios))
    assert splits.recommend() == expected


def test_a_boundary_is_a_gap_between_clouds_and_none_within_one():
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(1500, 6))
    halves = cloud[cloud[:, 0] < 0], cloud[cloud[:, 0] >= 0]
    assert boundary_ratio(*halves, rng) == pytest.approx(1, abs=0.2)
    assert boundary_ratio(cloud, cloud + 5, rng) < 0.05
