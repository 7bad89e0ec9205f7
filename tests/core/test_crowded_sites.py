"""Sites with more than two fragments, against coverage counted base by base."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, poisson

from scale_toolkit.core import crowded_sites
from scale_toolkit.core.crowded_sites import NUMBERED, Sweep
from scale_toolkit.errors import InputError


def drawn(seed, n_fragments=300, n_cells=5, n_chromosomes=3, length=400):
    """Sorted fragments at random places."""
    rng = np.random.default_rng(seed)
    chrom = np.array([f"chr{number}" for number in rng.integers(1, n_chromosomes + 1, n_fragments)], dtype=object)
    start = rng.integers(0, length, n_fragments)
    end = start + rng.integers(1, 60, n_fragments)
    order = np.lexsort([start, chrom.astype(str)])
    return chrom[order], start[order], end[order], rng.integers(-1, n_cells, n_fragments)


def runs_by_base(chrom, start, end, cell, n_cells, length=500):
    """Cell, chromosome, start and end of every run of bases that are covered more than twice."""
    runs = []
    for name in sorted(set(chrom)):
        for number in range(n_cells):
            depth = np.zeros(length + 1, int)
            for row in np.flatnonzero((chrom == name) & (cell == number)):
                depth[start[row] : end[row]] += 1
            edges = np.flatnonzero(np.diff(np.concatenate([[0], depth > 2, [0]])))
            runs += [(number, name, first, stop) for first, stop in edges.reshape(-1, 2)]
    return runs


def merged_by_base(runs, n_cells, length=500):
    """Merged sites (runs that share a base), and the cells of each."""
    sites = []
    for name in sorted({run[1] for run in runs}):
        shared = np.zeros(length + 1, bool)
        # the last base of a run and the first of the next do not join them
        inner = np.zeros(length + 1, bool)
        for _, _, first, stop in (run for run in runs if run[1] == name):
            shared[first:stop] = True
            inner[first + 1 : stop] = True
        starts = [base for base in np.flatnonzero(shared) if not inner[base]]
        for first, stop in zip(starts, [*starts[1:], length + 1]):
            sites.append({run[0] for run in runs if run[1] == name and first <= run[2] < stop})
    return sites


def swept(chrom, start, end, cell, n_cells, n_blocks=1, autosomes=()):
    sweep = Sweep(n_cells, autosomes)
    for rows in np.array_split(np.arange(len(chrom)), n_blocks):
        sweep.add(chrom[rows], start[rows], end[rows], cell[rows])
    return sweep.result()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 400), st.integers(1, 7))
def test_sites_are_those_of_the_coverage_of_each_base(seed, n_fragments, n_blocks):
    fragments = drawn(seed, n_fragments)
    result = swept(*fragments, 5, n_blocks)
    sites = merged_by_base(runs_by_base(*fragments, 5), 5)
    assert result.n_merged == len(sites)
    n_cells_with = np.array([len(site) for site in sites])
    kept = np.ones(len(sites), bool)
    if len(sites):
        kept = false_discovery_control(poisson.sf(n_cells_with - 1, n_cells_with.mean())) > 0.01
    expected = np.zeros(5, int)
    for site, is_kept in zip(sites, kept):
        expected[list(site)] += is_kept
    np.testing.assert_array_equal(result.n_sites, expected)
    assert result.n_repeats == (~kept).sum()
    cell = fragments[3]
    np.testing.assert_array_equal(result.n_fragments, np.bincount(cell[cell >= 0], minlength=5))


def test_the_p_values_are_the_poisson_tail_over_the_cells():
    result = swept(*drawn(3, 3000, n_cells=40, length=800), 40)
    assert result.n_sites.sum() > 20
    rate = result.n_sites.mean()
    np.testing.assert_allclose(result.pvals, [1 - sum(poisson.pmf(k, rate) for k in range(n)) for n in result.n_sites])
    np.testing.assert_allclose(result.pvals_adj, false_discovery_control(result.pvals))


def test_three_nested_fragments_are_one_site_and_two_are_none():
    chrom = np.array(["chr1"] * 3, dtype=object)
    start, end = np.array([0, 10, 20]), np.array([100, 90, 80])
    assert swept(chrom, start, end, np.zeros(3, int), 1).n_merged == 1
    assert swept(chrom[:2], start[:2], end[:2], np.zeros(2, int), 1).n_merged == 0
    # of different cells, and one behind the other
    assert swept(chrom, start, end, np.array([0, 1, 0]), 2).n_merged == 0
    assert swept(chrom, start, start + 10, np.zeros(3, int), 1).n_merged == 0


def test_only_autosomes_and_usual_lengths_count():
    names = ["chr1"] * 3 + ["chr2"] * 3 + ["chrX"] * 3
    chrom = np.array(names, dtype=object)
    start = np.tile([0, 1, 2], 3)
    cell = np.zeros(9, int)
    assert swept(chrom, start, start + 300, cell, 1).n_merged == 2
    assert swept(chrom, start, start + 300, cell, 1, autosomes=["chr2"]).n_merged == 1
    assert swept(chrom, start, start + crowded_sites.LONGEST_FRAGMENT + 1, cell, 1).n_merged == 0


def test_a_site_of_far_too_many_cells_is_left_out():
    """Forty cells share a repeat; every cell also has a site of its own."""
    rows = [("chr1", 100 + step, cell) for step in range(3) for cell in range(40)]
    rows += [("chr2", 1000 * cell + step, cell) for cell in range(40) for step in range(3)]
    chrom, start, cell = (np.array(column, dtype=kind) for column, kind in zip(zip(*rows), (object, int, int)))
    result = swept(chrom, start, start + 50, cell, 40)
    assert (result.n_merged, result.n_repeats) == (41, 1)
    assert (result.n_sites == 1).all()


@pytest.mark.parametrize(
    ("names", "numbered"),
    [
        ("chr1 chr22 1 19 Chr5 chr2L chr2a", True),
        ("chrX Y chrM MT chrUn_GL000220v1 GL000220.1 chr1_random I 123456", False),
    ],
)
def test_numbered_chromosomes_are_autosomes(names, numbered):
    assert all((NUMBERED.match(name) is not None) == numbered for name in names.split())


def test_what_is_not_sorted_is_refused_with_its_place():
    chrom = np.array(["chr1", "chr1"], dtype=object)
    cell = np.zeros(2, int)
    sweep = Sweep(1)
    with pytest.raises(InputError, match=r"not sorted: chr1:5 after chr1:9; expected .*sort -k1,1 -k2,2n"):
        sweep.add(chrom, np.array([9, 5]), np.array([12, 12]), cell)
    sweep = Sweep(1)
    sweep.add(chrom, np.array([5, 9]), np.array([12, 12]), cell)
    with pytest.raises(InputError, match="not sorted: chr1:8 after chr1:9"):
        sweep.add(chrom[:1], np.array([8]), np.array([12]), cell[:1])
    sweep = Sweep(1)
    sweep.add(np.array(["chr1", "chr2"], dtype=object), np.array([5, 9]), np.array([12, 12]), cell)
    with pytest.raises(InputError, match="not sorted: chr1:50 after chr2:9"):
        sweep.add(chrom[:1], np.array([50]), np.array([52]), cell[:1])


def test_no_autosome_is_an_error():
    with pytest.raises(InputError, match="fragments on I, X; expected autosomes with numbers, such as chr1"):
        swept(np.array(["I", "X"], dtype=object), np.array([1, 1]), np.array([9, 9]), np.zeros(2, int), 1)
