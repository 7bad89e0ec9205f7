"""The track hub and IGV's session beside bigWig files of groups."""

from __future__ import annotations

from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pybigtools
import pytest

from scale_toolkit import plot
from scale_toolkit.errors import UsageError
from scale_toolkit.io.browser import Signal, check_assembly, write_sessions
from scale_toolkit.io.groups import write_groups

NAMES = ["10", "2", "T cell/naïve & <old>", "a name of more than seventeen letters", "unlabelled"]


@pytest.fixture
def folder(tmp_path):
    """A folder with bigWig files of five groups and both sessions, and the groups' signals."""
    means = pd.DataFrame(np.random.default_rng(0).random((3, 5)) * 0.37, columns=NAMES)
    means.index = ["chr1:0-100", "chr1:200-300", "chr2:5-9"]
    (tmp_path / "sizes").write_text("chr1\t1000\nchr2\t500\n")
    paths = write_groups(tmp_path / "out", "my type", means, chrom_sizes=tmp_path / "sizes")[1:]
    shades = plot.label_colors(pd.Series(NAMES[:4]), NAMES)
    files = dict(zip(NAMES, [path.name for path in paths], strict=True))
    signals = [Signal(name, files[name], shade) for name, shade in shades.items()]
    written = write_sessions(tmp_path / "out", "my type", signals, float(means.max(axis=None)), "hg38")
    assert [path.name for path in written] == ["hub.txt", "my_type.igv.xml"]
    return tmp_path / "out", signals, means


def stanzas(path):
    """Blocks of lines ``key value``, parted by empty lines."""
    return [
        dict(line.split(" ", 1) for line in block.splitlines())
        for block in path.read_text(encoding="utf-8").strip().split("\n\n")
    ]


def test_the_hub_opens_every_group_on_one_scale(folder):
    place, signals, means = folder
    hub, genome, parent, *tracks = stanzas(place / "hub.txt")
    assert hub["useOneFile"] == "on" and {"hub", "shortLabel", "longLabel"} <= set(hub)
    assert " " not in hub["hub"]
    assert genome == {"genome": "hg38"}
    assert parent["compositeTrack"] == "on"
    assert len({track["track"] for track in [parent, *tracks]}) == 6
    assert len(tracks) == len(signals)
    high = float(parent["type"].split()[-1])
    assert high == pytest.approx(means.max(axis=None), rel=1e-5)
    for track, signal in zip(tracks, signals, strict=True):
        assert track["parent"].split()[0] == parent["track"]
        assert track["track"].replace("_", "").isalnum() and track["track"].isascii()
        assert track["type"] == parent["type"] == f"bigWig 0 {high:g}"
        assert (track["autoScale"], track["viewLimits"]) == ("group", f"0:{high:g}")
        assert (place / unquote(track["bigDataUrl"])).name == signal.file
        assert len(track["shortLabel"]) <= 17 and len(track["longLabel"]) <= 80
        assert track["color"] == ",".join(str(round(255 * value)) for value in signal.color)
        with pybigtools.open(str(place / unquote(track["bigDataUrl"]))) as file:
            assert file.chroms() == {"chr1": 1000, "chr2": 500}


def test_the_session_of_igv_groups_the_scales(folder):
    place, signals, means = folder
    session = ElementTree.parse(place / "my_type.igv.xml").getroot()
    assert (session.tag, session.get("genome"), session.get("version")) == ("Session", "hg38", "8")
    paths = [resource.get("path") for resource in session.iter("Resource")]
    assert paths == [signal.file for signal in signals]
    assert all((place / path).is_file() for path in paths)
    tracks = list(session.iter("Track"))
    assert [track.get("id") for track in tracks] == paths
    assert [track.get("name") for track in tracks] == [signal.name for signal in signals]
    assert [track.get("color") for track in tracks] == [signal.rgb for signal in signals]
    assert {track.get("autoscaleGroup") for track in tracks} == {"1"}
    ranges = {(range_.get("minimum"), range_.get("maximum")) for range_ in session.iter("DataRange")}
    ((low, high),) = ranges
    assert float(low) == 0 and float(high) == pytest.approx(means.max(axis=None), rel=1e-5)


def test_order_and_colours_are_those_of_the_figures(folder):
    _, signals, _ = folder
    # numbers by size would need numbers only: these are names, in the order of sorted text
    assert signals[-1].name == "unlabelled" and signals[-1].rgb == "208,208,208"
    expected = plot.colors(4)
    assert [signal.color for signal in signals[:4]] == expected
    numbers = plot.label_colors(pd.Categorical(["10", "9", "1"]), ["10", "1"])
    assert list(numbers) == ["1", "10"]
    assert list(numbers.values()) == [plot.colors(3)[0], plot.colors(3)[2]]


def test_equal_groups_give_equal_bytes_and_replace_the_former(folder):
    place, signals, means = folder
    before = [(place / name).read_bytes() for name in ("hub.txt", "my_type.igv.xml")]
    write_sessions(place, "my type", signals, float(means.max(axis=None)), "hg38")
    assert [(place / name).read_bytes() for name in ("hub.txt", "my_type.igv.xml")] == before


@pytest.mark.parametrize("name", ["", "hg 38", "../hg38", "hg38\ntrack x"])
def test_what_is_not_the_name_of_a_genome_is_refused(name):
    with pytest.raises(UsageError, match="the name of a genome at UCSC or IGV"):
        check_assembly(name)
