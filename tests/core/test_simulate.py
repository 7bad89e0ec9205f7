from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, sparse, stats

from scale_toolkit.core import simulate
from scale_toolkit.core.simulate import PlantedCells

SMALL = {"n_cells": 300, "n_peaks": 2000, "n_clusters": 4, "open_peaks": 100}


def counts_of(planted):
    return sparse.vstack(list(planted.blocks()), format="csr")


def open_rates(counts, cells=slice(None), peaks=slice(None)):
    return np.asarray((counts[cells][:, peaks] > 0).mean(axis=0)).ravel()


@settings(deadline=None, max_examples=30)
@given(
    n_clusters=st.integers(1, 6),
    extra_cells=st.integers(0, 40),
    extra_peaks=st.integers(0, 60),
    share=st.floats(0.01, 0.5),
    n_batches=st.integers(1, 3),
    doublets=st.floats(0, 0.5),
    continuum=st.floats(0, 0.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_small_set_is_valid_counts_of_every_cluster(
    n_clusters, extra_cells, extra_peaks, share, n_batches, doublets, continuum, seed
):
    n_peaks = n_clusters + (n_clusters + 1) // 2 + extra_peaks
    planted = PlantedCells(
        n_cells=n_clusters + extra_cells,
        n_peaks=n_peaks,
        n_clusters=n_clusters,
        open_peaks=max(1.0, share * n_peaks),
        n_batches=n_batches,
        doublets=doublets if n_clusters > 1 else 0,
        continuum=continuum if n_clusters > 1 else 0,
        seed=seed,
    )
    counts = counts_of(planted)
    counts.check_format(full_check=True)
    assert counts.has_canonical_format and counts.shape == planted.shape
    assert counts.dtype == np.float32
    assert (counts.data >= 1).all() and (counts.data == np.rint(counts.data)).all()
    assert set(planted.cluster) == set(range(n_clusters))
    assert set(planted.program) >= set(range(n_clusters))
    mixed = planted.other >= 0
    assert (planted.other[mixed] != planted.cluster[mixed]).all()
    assert (mixed == (planted.is_doublet | np.isfinite(planted.position))).all()
    assert not (planted.is_doublet & np.isfinite(planted.position)).any()
    assert 0 <= planted.effect <= simulate.LARGEST_EFFECT


def test_equal_arguments_give_equal_bytes_and_another_seed_does_not():
    first, again, other = (counts_of(PlantedCells(**SMALL, seed=seed)) for seed in (1, 1, 2))
    for part in ("indptr", "indices", "data"):
        assert getattr(first, part).tobytes() == getattr(again, part).tobytes()
    assert first.indices.tobytes() != other.indices.tobytes()


def test_blocks_can_be_made_again_and_hold_a_bounded_number_of_open_peaks(monkeypatch):
    monkeypatch.setattr(simulate, "_OPEN_PEAKS_A_BLOCK", 5000)
    planted = PlantedCells(**SMALL, doublets=0.1, continuum=0.1)
    first, again = list(planted.blocks()), list(planted.blocks())
    assert [block.shape[0] for block in first] == [50] * 6
    assert max(block.nnz for block in first) < 3 * 5000
    assert all((a != b).nnz == 0 for a, b in zip(first, again))


def test_a_peak_is_open_with_the_probability_of_a_poisson_process():
    rng = np.random.default_rng(0)
    rate = np.sort(rng.lognormal(0, 1.5, 40))
    rate /= rate.sum()
    cuts = np.repeat([2.0, 30.0], 20_000)
    opened = simulate._open_peaks(rng, rate, cuts)
    for depth, cells in ((2.0, opened[:20_000]), (30.0, opened[20_000:])):
        seen = np.bincount(np.concatenate(cells), minlength=40) / 20_000
        p = -np.expm1(-depth * rate)
        assert np.abs((seen - p) / np.sqrt(p * (1 - p) / 20_000)).max() < 4.5
    assert all((np.diff(peaks) > 0).all() for peaks in opened)
    # two peaks of one cell are independent
    both = np.mean([38 in peaks and 39 in peaks for peaks in opened[20_000:]])
    p = -np.expm1(-30 * rate[[38, 39]])
    assert both == pytest.approx(p.prod(), abs=5 * np.sqrt(p.prod() / 20_000))


def test_cells_without_a_cut_stay_empty_and_keep_their_place():
    opened = simulate._open_peaks(np.random.default_rng(0), np.array([0.25, 0.75]), np.array([1e-9, 50.0, 1e-9, 50.0]))
    assert [list(peaks) for peaks in opened] == [[], [0, 1], [], [0, 1]]


@pytest.mark.parametrize("wanted", [3.0, 200.0, 1500.0])
def test_depths_solve_for_the_expected_open_peaks(wanted):
    rng = np.random.default_rng(1)
    rate = rng.lognormal(0, 1, 3000)
    rate /= rate.sum()
    found = np.exp(np.interp(np.log(wanted), *simulate._depth_table(rate, 3.0, 1500.0)))
    exact = optimize.brentq(lambda depth: -np.expm1(-depth * rate).sum() - wanted, 1e-3, 1e9)
    assert found == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_cells": 1000, "n_peaks": 20_000, "n_clusters": 8, "open_peaks": 2000},
        {"n_cells": 800, "n_peaks": 5000, "n_clusters": 3, "open_peaks": 60},
        {"n_cells": 800, "n_peaks": 1000, "n_clusters": 2, "open_peaks": 400},
        {"n_cells": 1500, "n_peaks": 5000, "n_clusters": 5, "open_peaks": 300, "n_batches": 3},
        {"n_cells": 600, "n_peaks": 5000, "n_clusters": 5, "open_peaks": 300, "continuum": 1.0},
    ],
)
def test_median_open_peaks_are_those_asked_for_and_depth_is_log_normal(sizes):
    planted = PlantedCells(**sizes)
    opened = np.diff(counts_of(planted).indptr)
    assert np.median(opened) == pytest.approx(sizes["open_peaks"], rel=0.05)
    # what a cell should have, it has: up to binomial noise
    assert np.std((opened - planted.depth) / np.sqrt(planted.depth)) < 1.1
    assert np.mean(opened / planted.depth) == pytest.approx(1, abs=0.02)
    if "n_batches" not in sizes and sizes["open_peaks"] < 0.3 * sizes["n_peaks"]:
        log_depth = np.log(planted.depth)
        assert np.std(log_depth) == pytest.approx(simulate.DEPTH_SPREAD, rel=0.1)
        assert stats.shapiro(log_depth[:500]).pvalue > 1e-3


def test_peak_frequencies_have_the_heavy_tail_of_real_sets(real):
    def spread(counts):
        rates = open_rates(sparse.csr_matrix(counts))
        rates = rates[rates > 0]
        return rates.std() / rates.mean()

    seen = [spread(real(name).X) for name in ("leukemia", "forebrain", "bone_marrow", "aml_patients")]
    made = spread(counts_of(PlantedCells(n_cells=600, n_peaks=10_000, n_clusters=6, open_peaks=400)))
    assert min(seen) < made < max(seen)


def test_counts_are_those_of_a_10x_set(real):
    counts = counts_of(PlantedCells(**SMALL)).data
    seen = real("bone_marrow").X.data
    assert set(counts) >= {1, 2, 3, 4} and counts.max() < 16
    for count in (1, 2):
        assert np.mean(counts == count) == pytest.approx(np.mean(seen == count), abs=0.05)
    assert counts.mean() == pytest.approx(seen.mean(), rel=0.05)


def test_every_cluster_opens_its_own_peaks_more_and_siblings_are_closest():
    planted = PlantedCells(n_cells=1200, n_peaks=4000, n_clusters=6, open_peaks=300)
    counts = counts_of(planted)
    rates = np.array([open_rates(counts, planted.cluster == cluster) for cluster in range(6)])
    for program in range(6):
        level = rates[:, planted.program == program].mean(axis=1)
        assert level.argmax() == program
        assert level[program] > 1.2 * np.delete(level, program).max()
    for pair in range(3):
        level = rates[:, planted.program == 6 + pair].mean(axis=1)
        assert set(np.argsort(level)[-2:]) == {2 * pair, 2 * pair + 1}
    closest = np.corrcoef(rates) - 2 * np.eye(6)
    assert list(closest.argmax(axis=1)) == [1, 0, 3, 2, 5, 4]


def test_peaks_outside_every_program_are_as_open_in_all_clusters():
    planted = PlantedCells(n_cells=1200, n_peaks=4000, n_clusters=2, open_peaks=300)
    rates = [open_rates(counts_of(planted), planted.cluster == cluster, planted.program == -1).mean() for cluster in (0, 1)]
    assert rates[0] == pytest.approx(rates[1], rel=0.05)


def test_doublets_open_the_peaks_of_both_clusters():
    planted = PlantedCells(n_cells=1000, n_peaks=4000, n_clusters=4, open_peaks=200, doublets=0.3)
    opened = np.diff(counts_of(planted).indptr)
    assert planted.is_doublet.sum() == 300
    ratio = np.mean(opened[planted.is_doublet] / planted.depth[planted.is_doublet])
    assert 1.7 < ratio < 2.0
    counts = counts_of(planted)
    share = np.array([np.asarray((counts[:, planted.program == c] > 0).sum(axis=1)).ravel() for c in range(4)]) / opened
    both = planted.is_doublet & (planted.cluster == 0) & (planted.other == 1)
    neither = [share[program, both].mean() for program in (2, 3)]
    assert min(share[0, both].mean(), share[1, both].mean()) > 1.15 * max(neither)


def test_a_continuum_leads_from_one_cluster_to_the_other():
    planted = PlantedCells(n_cells=900, n_peaks=4000, n_clusters=2, open_peaks=300, continuum=0.8)
    counts = counts_of(planted)
    opened = np.diff(counts.indptr)
    on_path = np.isfinite(planted.position)
    assert on_path.sum() == 720 and planted.position[on_path].min() >= 0 and planted.position[on_path].max() <= 1
    from_first = on_path & (planted.cluster == 0)
    place = planted.position[from_first]
    for program, sign in ((0, -1), (1, 1)):
        share = np.asarray((counts[:, planted.program == program] > 0).sum(axis=1)).ravel() / opened
        assert sign * stats.spearmanr(place, share[from_first]).statistic > 0.4
        ends = share[~on_path & (planted.cluster == program)].mean()
        reached = share[from_first][place > 0.9 if program else place < 0.1].mean()
        assert reached == pytest.approx(ends, rel=0.1)


def test_batches_shift_peak_frequencies_and_depth():
    one, two = (PlantedCells(n_cells=1500, n_peaks=1000, n_clusters=2, open_peaks=200, n_batches=n) for n in (1, 2))
    assert set(two.batch) == {0, 1} and set(one.batch) == {0}

    def worst(planted, group):
        counts = counts_of(planted)
        rates = [open_rates(counts, (planted.cluster == 0) & (group == value)) for value in (0, 1)]
        return np.corrcoef(*rates)[0, 1]

    halves = np.arange(1500) % 2
    assert worst(two, two.batch) < worst(two, halves) - 0.03
    assert worst(one, halves) == pytest.approx(worst(two, halves), abs=0.03)
    depths = [np.median(two.depth[two.batch == batch]) for batch in (0, 1)]
    assert abs(np.log(depths[0] / depths[1])) > 0.02


def test_the_effect_makes_small_and_large_sets_equally_hard():
    def effect(**sizes):
        return PlantedCells(**({"n_cells": 1000, "n_peaks": 5000, "n_clusters": 4, "open_peaks": 200} | sizes)).effect

    assert effect(n_cells=200) > effect() > effect(n_cells=5000)  # fewer cells need stronger programs
    assert effect(open_peaks=50) > effect()  # and so do shallower ones
    assert effect(n_clusters=10) > effect(n_clusters=2)
    assert effect(n_clusters=1) == 1


def test_separation_grows_with_the_effect_once_an_svd_can_see_it():
    sizes = (2000, 2000, 4, 200)
    separations, contrasts = zip(*(simulate._separation(*sizes, effect) for effect in (0, 0.3, 1, 2, 3)))
    assert separations[:2] == contrasts[:2] == (0, 0)
    assert (np.diff(separations[1:]) > 0).all() and (np.diff(contrasts[1:]) > 0).all()
    wanted = simulate.SEPARATION + simulate.SEPARATION_BY_SATURATION * (200 * 0.1**3) ** 0.5
    separation, contrast = simulate._separation(*sizes, simulate._effect(*sizes))
    assert separation == pytest.approx(wanted, rel=1e-3) and contrast > simulate.CONTRAST
    few_cells_of_two = (384, 27_884, 2, 1100)
    separation, contrast = simulate._separation(*few_cells_of_two, simulate._effect(*few_cells_of_two))
    assert contrast == pytest.approx(simulate.CONTRAST, rel=1e-3) and separation > simulate.SEPARATION


def test_separation_is_that_of_planted_siblings():
    sizes = {"n_cells": 1000, "n_peaks": 20_000, "n_clusters": 2, "open_peaks": 1000}
    seen = []
    for seed in range(4):
        planted = PlantedCells(**sizes, seed=seed)
        p = []
        for cluster in (0, 1):
            rate = planted.rates(cluster)
            depth = optimize.brentq(lambda depth, rate=rate: -np.expm1(-depth * rate).sum() - 1000, 1, 1e9)
            p.append(-np.expm1(-depth * rate))
        noise = (p[0] * (1 - p[0]) + p[1] * (1 - p[1])) / 2
        line = p[1] - p[0]
        distance = line @ line / (line**2 @ noise / (line @ line))
        variance = line @ line / 4 / (noise @ noise / noise.sum())
        directions = noise.sum() ** 2 / (noise @ noise) / 1000
        seen.append(np.sqrt(distance * (variance**2 - directions) / (variance**2 + variance)))
    separation, _ = simulate._separation(*sizes.values(), planted.effect)
    assert separation == pytest.approx(np.mean(seen), rel=0.1)


@pytest.mark.parametrize(("chromosomes", "n_peaks"), [(None, 1), (None, 30), (None, 5000), ({"1": 1, "2": 2, "X": 1}, 4000)])
def test_intervals_are_sorted_disjoint_and_500_bp_wide(chromosomes, n_peaks, monkeypatch):
    if chromosomes:  # as tight as MOST_PEAKS on the whole genome
        monkeypatch.setattr(simulate, "_CHROMOSOMES", chromosomes)
    names = simulate._intervals(np.random.default_rng(0), n_peaks)
    assert len(names) == n_peaks == len(set(names))
    order = ["chr" + name for name in simulate._CHROMOSOMES]
    parts = [name.replace(":", "-").split("-") for name in names]
    places = [(order.index(chromosome), int(start), int(end)) for chromosome, start, end in parts]
    assert all(end - start == simulate.PEAK_WIDTH and start >= 0 for _, start, end in places)
    assert all(a[0] < b[0] or (a[0] == b[0] and a[2] <= b[1]) for a, b in itertools.pairwise(places))
    lengths = [length * 10**6 for length in simulate._CHROMOSOMES.values()]
    assert all(end <= lengths[chromosome] for chromosome, _, end in places)
    assert simulate.MOST_PEAKS * 2 * simulate.PEAK_WIDTH == 3021 * 10**6
