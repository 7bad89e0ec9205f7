import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_toolkit.core.intervals import Overlaps, format_names, parse_names, require_intervals
from scale_toolkit.errors import InputError

CONTIGS = st.one_of(
    st.sampled_from(["chr1", "chrX", "GL000194.1", "chrUn_KI270742v1", "HLA-DRB1*15:01:01:01", "1", "chr1_random"]),
    st.from_regex(r"\A[A-Za-z][A-Za-z0-9_.:\-]{0,12}[A-Za-z]\Z"),
)
BOUNDS = st.tuples(st.integers(0, 10**9), st.integers(1, 10**6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(CONTIGS, BOUNDS, st.sampled_from([":-", "__", "--", "_-", ":_"])), min_size=1, max_size=20))
def test_names_of_every_spelling_come_back_as_their_intervals(intervals):
    names = [f"{chrom}{seps[0]}{start}{seps[1]}{end}" for chrom, (start, end), seps in intervals]
    table = parse_names(names)
    assert table["chrom"].tolist() == [chrom for chrom, _, _ in intervals]
    assert list(zip(table["start"], table["end"])) == [bounds for _, bounds, _ in intervals]


def test_contigs_with_dots_and_underscores():
    table = parse_names(["GL000194.1_55813_57169", "chrUn_KI270742v1_1_2"])
    assert table.to_numpy().tolist() == [["GL000194.1", 55813, 57169], ["chrUn_KI270742v1", 1, 2]]
    assert table["start"].dtype == np.int64


@pytest.mark.parametrize("name", ["peak_7", "12", "", "a:200-100", "a:5-5", "a:-5-100", "a:b-c", "a:1-99999999999999999999"])
def test_what_is_no_interval_has_no_chromosome(name):
    assert parse_names([name]).to_numpy().tolist() == [[None, 0, 0]]


def test_a_name_that_must_be_an_interval_is_named_in_the_error():
    with pytest.raises(InputError, match=r"2 of 3 peak names are not intervals, first 'peak_7'.*leave out --blacklist"):
        require_intervals(["chr1:1-2", "peak_7", "peak_8"], "--blacklist")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(CONTIGS, BOUNDS), max_size=10))
def test_names_round_trip(intervals):
    table = pd.DataFrame([(c, s, e) for c, (s, e) in intervals], columns=["chrom", "start", "end"])
    assert parse_names(format_names(table)).to_numpy().tolist() == table.to_numpy().tolist()


SMALL = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 30), st.integers(1, 10)).map(
        lambda t: (t[0], t[1], t[1] + t[2])
    ),
    min_size=1,
    max_size=15,
)


@settings(max_examples=60, deadline=None)
@given(SMALL, SMALL)
def test_overlaps_are_those_of_the_definition(asked, table):
    columns = ["chrom", "start", "end"]
    frame = pd.DataFrame(asked, columns=columns)
    left, right = Overlaps(pd.DataFrame(table, columns=columns)).pairs(*(frame[name].to_numpy() for name in columns))
    expected = {
        (i, j)
        for i, (c, s, e) in enumerate(asked)
        for j, (chrom, start, end) in enumerate(table)
        if c == chrom and s < end and start < e
    }
    assert sorted(zip(left.tolist(), right.tolist())) == sorted(expected)
