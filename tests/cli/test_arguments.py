"""SCALE.py's spellings, rewritten for Typer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scale_toolkit.cli.arguments import normalised


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ("-d a b", "-d a -d b"),
        ("--data_list a b c -k 3", "--data_list a --data_list b --data_list c -k 3"),
        ("--data-list - -k 3", "--data-list - -k 3"),
        ("-d a -d b", "-d a -d b"),
        ("-d", "-d"),
        ("--encode_dim 1024 128", "--encode-dim=1024,128"),
        ("--encode-dim 1024,128 64 cells.h5ad", "--encode-dim=1024,128,64 cells.h5ad"),
        ("--encode_dim x 5", "--encode-dim=x,5"),
        ("--decode_dim -k 3", "--decode-dim= -k 3"),
        ("--decode_dim", "--decode-dim="),
        ("--encode_dim=1024 128", "--encode_dim=1024 128"),
        ("--gpu", "--gpu="),
        ("-g 1 -k 3", "--gpu=1 -k 3"),
        ("--gpu cells.h5ad", "--gpu= cells.h5ad"),
        ("--gpu -k 3", "--gpu= -k 3"),
        ("-d a -- -d b c", "-d a -- -d b c"),
        ("-- --gpu", "-- --gpu"),
        ("--min_peaks 50", "--min_peaks 50"),
    ],
)
def test_rewriting(words, plain):
    assert normalised(words.split()) == plain.split()


words = st.lists(
    st.sampled_from(
        ["-d", "--data_list", "--data-list", "--encode_dim", "--decode-dim", "--gpu", "-g", "--", "-", "-k", "7", "a b"]
    )
    | st.text(max_size=4)
)
SPECIAL = {"-d", "--data-list", "--encode-dim", "--decode-dim", "--gpu", "-g"}


@given(words)
def test_a_second_rewriting_changes_nothing(arguments):
    once = normalised(arguments)
    assert normalised(once) == once


@given(words, words)
def test_what_follows_two_dashes_is_left_alone(before, after):
    if "--" not in before:
        assert normalised([*before, "--", *after])[-len(after) - 1 :] == ["--", *after]


@given(words)
def test_other_words_are_left_alone(arguments):
    arguments = [word for word in arguments if word.replace("_", "-") not in SPECIAL]
    assert normalised(arguments) == arguments


@given(words)
def test_the_list_given_is_not_changed(arguments):
    before = list(arguments)
    normalised(arguments)
    assert arguments == before
