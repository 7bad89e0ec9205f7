"""Motif enrichment: scanning against all words, Fisher's test against scipy, backgrounds that are alike."""

from __future__ import annotations

import itertools
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control, fisher_exact

from scale_toolkit.core import motifs
from scale_toolkit.errors import InputError

BASES = np.array(list("ACGT"))


def random_sequences(lengths, seed=0, gc=0.4):
    rng = np.random.default_rng(seed)
    p = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
    return ["".join(rng.choice(BASES, n, p=p)) for n in lengths]


def by_all_words(sequences, matrix, p):
    """The definition: the score that words of the motif's length reach with probability p at most, found in either strand."""
    text = "".join(sequences).upper()
    gc = (text.count("C") + text.count("G")) / sum(map(text.count, "ACGT")) / 2
    composition = np.array([0.5 - gc, gc, gc, 0.5 - gc])
    scores = np.log2((0.99 * matrix + 0.01 * composition) / composition)
    width = len(matrix)
    words = np.array(list(itertools.product(range(4), repeat=width)))
    of_word, chance = scores[np.arange(width), words].sum(axis=1), composition[words].prod(axis=1)
    order = np.argsort(-of_word)
    allowed = np.cumsum(chance[order]) <= p
    threshold = of_word[order][allowed].min() if allowed.any() else of_word.max()

    def holds(sequence):
        codes = ["ACGT".find(letter) for letter in sequence.upper()]
        windows = [codes[i : i + width] for i in range(len(codes) - width + 1)]
        return any(
            sum(m[j, c] for j, c in enumerate(window) if c >= 0) >= threshold - 1e-3
            for window in windows
            for m in (scores, scores[::-1, ::-1])
        )

    return np.array([holds(sequence) for sequence in sequences])


@pytest.mark.parametrize("p", [1e-2, 1e-3, 1e-5])
def test_occurrences_are_those_of_the_definition(p):
    rng = np.random.default_rng(1)
    sequences = [*random_sequences(rng.integers(3, 300, 200)), "", "ACG", "acgtNNNNacgtRYacgtaa"]
    found = {name: rng.dirichlet([0.3] * 4, size=width) for name, width in (("six", 6), ("five", 5))}
    told = []
    got = motifs.occurrences(sequences, found, p, progress=told.append)
    assert got.shape == (2, 203) and told == [1, 2]
    for row, matrix in zip(got, found.values()):
        expected = by_all_words(sequences, matrix, p)
        assert expected.sum() > 0
        assert (row != expected).mean() <= 0.02  # lightmotif rounds the scores of its distribution


def test_a_hit_lies_inside_one_sequence():
    """The halves of a word in two neighbouring sequences make no hit; nor does what hangs over an end."""
    matrix = np.eye(4)[[0, 1, 2, 3, 0, 0]]  # ACGTAA
    sequences = ["CCCCCCACG", "TAACCCCC", "GGGACGTAAGGG", "GGGTTACGTGGG", "ACGTAA", "CGTAA"]
    assert motifs.occurrences(sequences, {"m": matrix}, 1e-3)[0].tolist() == [False, False, True, True, True, False]


def test_gc_content_ignores_what_is_not_known():
    np.testing.assert_array_equal(motifs.gc_content(["GGCC", "acgt", "GNNN", "NN", ""]), [1, 0.5, 1, np.nan, np.nan])


def test_the_background_is_like_the_peaks_and_unlike_the_rest():
    rng = np.random.default_rng(0)
    n = 6000
    gc, frequency = rng.normal(0.45, 0.08, n), np.exp(rng.normal(-3, 0.8, n))
    own = rng.choice(n, 200, replace=False, p=(w := np.exp(8 * gc) * frequency) / w.sum())
    others = np.setdiff1d(np.arange(n), own)
    chosen = motifs.match_background(own, others, gc, frequency, 5, np.random.default_rng(1))
    assert 990 <= len(chosen) == len(set(chosen)) <= 1000 and set(chosen) <= set(others)
    assert gc[own].mean() - gc[others].mean() > 0.02
    assert abs(gc[own].mean() - gc[chosen].mean()) < 0.006
    assert abs(np.log(frequency[own]).mean() - np.log(frequency[others]).mean()) > 0.4
    assert abs(np.log(frequency[own]).mean() - np.log(frequency[chosen]).mean()) < 0.06
    assert len(motifs.match_background(own, others, gc, frequency, 2, rng)) == 400
    assert len(motifs.match_background(own, others[:30], gc, frequency, 5, rng)) == 30
    assert len(motifs.match_background(own, others[:0], gc, frequency, 5, rng)) == 0


def test_enrichment_is_fishers_exact_test():
    in_own, in_background = np.array([0, 5, 40, 50, 3]), np.array([0, 2, 60, 250, 90])
    found = motifs.enrichment(in_own, 50, in_background, 250)
    for i, (a, b) in enumerate(zip(in_own, in_background)):
        assert found.p_value[i] == pytest.approx(fisher_exact([[a, 50 - a], [b, 250 - b]], alternative="greater").pvalue)
    np.testing.assert_allclose(found.fdr, false_discovery_control(found.p_value))
    assert found.odds_ratio[2] == pytest.approx(40.5 / 10.5 * 190.5 / 60.5)
    np.testing.assert_allclose([found.share[2], found.share_background[2]], [0.8, 0.24])


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightmotif", None)
    message = r"lightmotif is not installed; expected the extra 'motifs'; run: .* -m pip install .*\[motifs\]"
    with pytest.raises(InputError, match=message):
        motifs.occurrences(["ACGT"], {"m": np.eye(4)}, 1e-4)


def test_the_command_that_installs_an_extra_names_the_checkout_or_the_libraries(monkeypatch, tmp_path):
    from scale_toolkit import extras

    words = shlex.split(extras.install_command("motifs"))
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    checkout = Path(words[4].removesuffix("[motifs]"))
    assert (checkout / "pyproject.toml").is_file()
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "scale_toolkit" / "extras.py"))  # an installed package
    assert shlex.split(extras.install_command("motifs"))[4:] == ["lightmotif", "pyfaidx"]
