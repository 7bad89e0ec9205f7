"""Write a bigWig file from intervals, in time that follows their number.

The format is that of Kent et al. 2010 (Bioinformatics 26:2204): a header, the chromosomes as a B+
tree, the intervals in compressed blocks with an R tree over them, and the same for each zoom level.

It is written here because no library does this job: pybigtools 0.3 takes 24 s for 5,000 intervals
on hg19 (its time follows the genome's length, see benchmarks/RESULTS.md), pyBigWig has no wheels
for arm64, and figwig 0.2 compiles for 33 s at its first use. pybigtools reads the files in tests.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

_MAGIC, _TREE_MAGIC, _INDEX_MAGIC = 0x888FFC26, 0x78CA8C91, 0x2468ACE0
_HEADER = struct.Struct("<IHHQQQHHQQIQ")
_ZOOM_HEADER = struct.Struct("<IIQQ")
_SUMMARY = struct.Struct("<Qdddd")
# Chromosome, start, end, step, span, type, 0, items.
_SECTION = struct.Struct("<IIIIIBBH")
_BEDGRAPH = 1
# As UCSC's bedGraphToBigWig.
_ITEMS_PER_BLOCK = 1024
_CHILDREN_PER_NODE = 256
# A node counts its children in 16 bits.
_MOST_CHILDREN = 2**16 - 1
# As UCSC's tools: ten levels, each four times coarser.
_N_ZOOMS, _ZOOM_FACTOR = 10, 4

_ITEM = np.dtype([("start", "<u4"), ("end", "<u4"), ("value", "<f4")])
_ZOOM_ITEM = np.dtype(
    [
        ("chrom", "<u4"),
        ("start", "<u4"),
        ("end", "<u4"),
        ("n_bases", "<u4"),
        ("min", "<f4"),
        ("max", "<f4"),
        ("sum", "<f4"),
        ("sum_squares", "<f4"),
    ]
)
_LEAF = np.dtype(
    [
        ("first_chrom", "<u4"),
        ("first_base", "<u4"),
        ("last_chrom", "<u4"),
        ("last_base", "<u4"),
        ("offset", "<u8"),
        ("size", "<u8"),
    ]
)
_NODE = np.dtype(_LEAF.descr[:-1])


@dataclass(frozen=True)
class Track:
    """Intervals with one value each, sorted and disjoint.

    Attributes
    ----------
    chrom
        Number of the chromosome of each interval, in the order of the sorted chromosome names.
    start, end
        Half-open intervals, ``[start, end)``.
    value
        Value of each base of the interval.
    """

    chrom: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.chrom)


def write_bigwig(file: BinaryIO, lengths: Mapping[str, int], track: Track) -> None:
    """Write a track with its zoom levels.

    Parameters
    ----------
    file
        A new file, open for writing in binary mode.
    lengths
        Length of each chromosome. `Track.chrom` counts them in the order of their sorted names.
    track
        The intervals.
    """
    zooms = _zoom_levels(track)
    file.write(bytes(_HEADER.size + len(zooms) * _ZOOM_HEADER.size))
    summary_offset = file.tell()
    file.write(_SUMMARY.pack(*_summary(track)))
    tree_offset = file.tell()
    _write_chromosomes(file, lengths)
    data_offset = file.tell()
    n_blocks = -(-len(track) // _ITEMS_PER_BLOCK)
    file.write(struct.pack("<Q", n_blocks))
    leaves, largest = _write_blocks(
        file, track.chrom, track.start, track.end, _section_maker(track)
    )
    index_offset = file.tell()
    _write_index(file, leaves)
    zoom_headers = []
    for reduction, records in zooms:
        zoom_offset = file.tell()
        file.write(struct.pack("<I", len(records)))
        chrom, start, end = (records[name].astype(np.int64) for name in ("chrom", "start", "end"))
        leaves, size = _write_blocks(file, chrom, start, end, _record_maker(records))
        largest = max(largest, size)
        zoom_headers.append(_ZOOM_HEADER.pack(reduction, 0, zoom_offset, file.tell()))
        _write_index(file, leaves)
    file.write(struct.pack("<I", _MAGIC))
    file.seek(0)
    offsets = tree_offset, data_offset, index_offset
    no_fields = 0, 0, 0
    file.write(
        _HEADER.pack(_MAGIC, 4, len(zooms), *offsets, *no_fields, summary_offset, largest, 0)
    )
    file.write(b"".join(zoom_headers))


def _summary(track: Track) -> tuple[int, float, float, float, float]:
    """Return covered bases, least and largest value, sum and sum of squares over bases."""
    n_bases = track.end - track.start
    value = track.value.astype(np.float32).astype(np.float64)
    sums = float(n_bases @ value), float(n_bases @ value**2)
    return int(n_bases.sum()), float(value.min()), float(value.max()), *sums


def _write_chromosomes(file: BinaryIO, lengths: Mapping[str, int]) -> None:
    """Write the B+ tree of chromosome names: one leaf, or leaves under one node."""
    names = sorted(lengths)
    key_size = max(len(name.encode()) for name in names)
    size = min(len(names), _MOST_CHILDREN)
    file.write(struct.pack("<IIIIQQ", _TREE_MAGIC, size, key_size, 8, len(names), 0))
    leaves = [range(i, min(i + size, len(names))) for i in range(0, len(names), size)]
    keys = [name.encode().ljust(key_size, b"\0") for name in names]
    if len(leaves) > 1:
        first = file.tell() + 4 + len(leaves) * (key_size + 8)
        file.write(struct.pack("<BBH", 0, 0, len(leaves)))
        for number, leaf in enumerate(leaves):
            offset = first + number * (4 + size * (key_size + 8))
            file.write(keys[leaf[0]] + struct.pack("<Q", offset))
    for leaf in leaves:
        file.write(struct.pack("<BBH", 1, 0, len(leaf)))
        for i in leaf:
            file.write(keys[i] + struct.pack("<II", i, lengths[names[i]]))


def _section_maker(track: Track) -> Callable[[slice], bytes]:
    items = np.empty(len(track), _ITEM)
    items["start"], items["end"], items["value"] = track.start, track.end, track.value

    def section(rows: slice) -> bytes:
        block = items[rows]
        bounds = int(track.chrom[rows.start]), int(block["start"][0]), int(block["end"][-1])
        return _SECTION.pack(*bounds, 0, 0, _BEDGRAPH, 0, len(block)) + block.tobytes()

    return section


def _record_maker(records: npt.NDArray[np.void]) -> Callable[[slice], bytes]:
    return lambda rows: records[rows].tobytes()


def _write_blocks(
    file: BinaryIO,
    chrom: npt.NDArray[np.int64],
    start: npt.NDArray[np.int64],
    end: npt.NDArray[np.int64],
    make: Callable[[slice], bytes],
) -> tuple[npt.NDArray[np.void], int]:
    """Write items in compressed blocks of one chromosome each.

    Returns
    -------
    The leaves of their index, and the size of the largest block before compression.
    """
    n_items = len(chrom)
    starts_chromosome = np.flatnonzero(np.diff(chrom, prepend=-1))
    edges = np.append(starts_chromosome, n_items)
    firsts = np.concatenate(
        [np.arange(a, b, _ITEMS_PER_BLOCK) for a, b in itertools.pairwise(edges)]
    )
    leaves = np.empty(len(firsts), _LEAF)
    largest = 0
    for number, (a, b) in enumerate(zip(firsts, np.append(firsts[1:], n_items), strict=True)):
        data = make(slice(int(a), int(b)))
        largest = max(largest, len(data))
        offset = file.tell()
        file.write(zlib.compress(data))
        bounds = chrom[a], start[a], chrom[b - 1], end[b - 1]
        leaves[number] = (*bounds, offset, file.tell() - offset)
    return leaves, largest


def _write_index(file: BinaryIO, leaves: npt.NDArray[np.void]) -> None:
    """Write an R tree over blocks, from the root down."""
    data_end = file.tell()
    levels = [leaves]
    while len(levels[0]) > _CHILDREN_PER_NODE:
        children = levels[0]
        firsts = np.arange(0, len(children), _CHILDREN_PER_NODE)
        lasts = np.append(firsts[1:], len(children)) - 1
        nodes = np.zeros(len(firsts), _NODE)
        for name in ("first_chrom", "first_base"):
            nodes[name] = children[name][firsts]
        # intervals are sorted and disjoint, so the last child ends last
        for name in ("last_chrom", "last_base"):
            nodes[name] = children[name][lasts]
        levels.insert(0, nodes)
    bounds = (
        *(int(leaves[name][0]) for name in ("first_chrom", "first_base")),
        *(int(leaves[name][-1]) for name in ("last_chrom", "last_base")),
    )
    sizes = _CHILDREN_PER_NODE, len(leaves)
    file.write(
        struct.pack("<IIQIIIIQII", _INDEX_MAGIC, *sizes, *bounds, data_end, _ITEMS_PER_BLOCK, 0)
    )
    for level, below in zip(levels, [*levels[1:], None], strict=True):
        n_nodes = -(-len(level) // _CHILDREN_PER_NODE)
        if below is not None:
            # every child but the last is full, so their offsets are known before they are written
            first = file.tell() + n_nodes * 4 + level.nbytes
            node_size = 4 + _CHILDREN_PER_NODE * below.dtype.itemsize
            level["offset"] = first + np.arange(len(level)) * node_size
        for start in range(0, len(level), _CHILDREN_PER_NODE):
            node = level[start : start + _CHILDREN_PER_NODE]
            file.write(struct.pack("<BBH", below is None, 0, len(node)) + node.tobytes())


def _zoom_levels(track: Track) -> list[tuple[int, npt.NDArray[np.void]]]:
    """Return (bases per bin, summaries of bins that hold data) of each zoom level."""
    if len(track) == 0:
        return []
    # ten times the mean interval, as UCSC's tools: a finer level would be larger than the data
    reduction = max(10 * int(np.mean(track.end - track.start)), 10)
    records = _binned(track, reduction)
    levels = []
    for _ in range(_N_ZOOMS):
        # a level that is larger than the data would not save any reading
        if records.nbytes <= len(track) * _ITEM.itemsize:
            levels.append((reduction, records))
        if len(records) <= len(np.unique(track.chrom)) or reduction * _ZOOM_FACTOR >= 2**31:
            break
        reduction *= _ZOOM_FACTOR
        records = _merged(records, reduction)
    return levels


def _binned(track: Track, reduction: int) -> npt.NDArray[np.void]:
    """Summarise a track in bins of `reduction` bases."""
    first_bin, last_bin = track.start // reduction, (track.end - 1) // reduction
    n_bins = last_bin - first_bin + 1
    rows = np.repeat(np.arange(len(track)), n_bins)
    step = np.arange(len(rows)) - np.repeat(np.cumsum(n_bins) - n_bins, n_bins)
    edge = (first_bin[rows] + step) * reduction
    pieces = np.empty(len(rows), _ZOOM_ITEM)
    start, end = np.maximum(track.start[rows], edge), np.minimum(track.end[rows], edge + reduction)
    value = track.value[rows]
    pieces["chrom"], pieces["start"], pieces["end"] = track.chrom[rows], start, end
    pieces["n_bases"], pieces["min"], pieces["max"] = end - start, value, value
    pieces["sum"], pieces["sum_squares"] = (end - start) * value, (end - start) * value**2
    return _merged(pieces, reduction)


def _merged(records: npt.NDArray[np.void], reduction: int) -> npt.NDArray[np.void]:
    """Merge sorted summaries that lie in one bin of `reduction` bases."""
    bins = records["start"].astype(np.int64) // reduction
    chrom = records["chrom"].astype(np.int64)
    is_first = np.ones(len(records), bool)
    is_first[1:] = (np.diff(bins) != 0) | (np.diff(chrom) != 0)
    firsts = np.flatnonzero(is_first)
    lasts = np.append(firsts[1:], len(records)) - 1
    merged = records[firsts]
    merged["end"] = records["end"][lasts]
    merged["min"] = np.minimum.reduceat(records["min"], firsts)
    merged["max"] = np.maximum.reduceat(records["max"], firsts)
    for name in ("n_bases", "sum", "sum_squares"):
        merged[name] = np.add.reduceat(records[name].astype(np.float64), firsts)
    return merged
