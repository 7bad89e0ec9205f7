"""Damage every kind of input and read it: python tests/faults/fuzz.py --cases 100000 [--only h5ad] [--seed 0]

A small valid input of each kind is changed by Hypothesis: bytes flipped, cut, repeated, swapped for awkward words and numbers.
Reading (and preparing) what comes of it must end with cells or with a `ScaleError`, within 20 s and 3 GB: any other
exception, a crash of the process or a hang is a fault; its input is kept in --keep. Prints one line of JSON a kind; ends with 1
where there was a fault.
"""

from __future__ import annotations

import argparse
import faulthandler
import gzip
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from scipy import sparse

from scale_toolkit.errors import ScaleError
from scale_toolkit.io.readers import read_any

SECONDS, MEMORY = 20, 3 << 30
_BATCH = 2500  # cases of one process

Files = dict[str, bytes]

WORDS = [
    *(
        b"\0",
        b"\t",
        b"\n",
        b"\r",
        b",",
        b" ",
        b'"',
        b"'",
        b"#",
        b"%",
        b"-",
        b":",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\x1f\x8b",
        b"\x89HDF",
    ),
    *(
        b"NaN",
        b"inf",
        b"-1",
        b"0",
        b"1e309",
        b"0x10",
        b"1.5",
        b"1_000",
        b"999999999999",
        b"9223372036854775807",
        b"-9223372036854775809",
    ),
    *(
        b"chr1",
        b"chr1:5-4",
        b"chr1:-5-4",
        b"chr1\t1\t0",
        "Ä".encode(),
        "\u202e".encode(),
        b"=1+1",
        b"<script>",
        b"../../etc",
        b"%s%n",
        b"\n" * 50,
    ),
    *(b"%%MatrixMarket matrix coordinate pattern symmetric\n", b"%%MatrixMarket matrix array real general\n", b"X" * 5000),
]

Change = tuple[str, float, bytes | int]
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 255)),
        st.tuples(st.just("word"), st.floats(0, 1), st.sampled_from(WORDS)),
        st.tuples(st.just("over"), st.floats(0, 1), st.sampled_from(WORDS)),
        st.tuples(st.just("bytes"), st.floats(0, 1), st.binary(max_size=16)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.integers(1, 4000)),
        st.tuples(st.just("end"), st.floats(0, 1), st.just(0)),
        st.tuples(st.just("again"), st.floats(0, 1), st.integers(1, 4000)),
    ),
    min_size=1,
    max_size=8,
)


def changed(data: bytes, changes: list[Change]) -> bytes:
    """`data` after all changes, in order."""
    for kind, where, what in changes:
        at = int(where * len(data))
        if kind == "flip" and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([what]) + data[at + 1 :]
        elif kind in ("word", "bytes"):
            data = data[:at] + what + data[at:]
        elif kind == "over":
            data = data[:at] + what + data[at + len(what) :]
        elif kind == "cut":
            data = data[:at] + data[at + what :]
        elif kind == "end":
            data = data[:at]
        elif kind == "again":
            data = data[: at + what] + data[at : at + what] + data[at + what :]
    return data


def small() -> anndata.AnnData:
    """Twelve cells, twenty peaks."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.5, (12, 20)).astype(np.float32)
    names = [f"chr{1 + j % 3}:{1000 * j}-{1000 * j + 500}" for j in range(20)]
    cells = anndata.AnnData(
        sparse.csr_matrix(counts), obs=pd.DataFrame(index=[f"c{i}" for i in range(12)]), var=pd.DataFrame(index=names)
    )
    cells.obs["cell_type"] = pd.Categorical([f"t{i % 2}" for i in range(12)])
    cells.obsm["X_umap"] = rng.random((12, 2))
    cells.uns["text"] = "words"
    return cells


def _h5ad(**how: str) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cells.h5ad")
        small().write_h5ad(path, **how)
        return {"cells.h5ad": path.read_bytes()}


def _tenx() -> Files:
    cells = small()
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        group = file.create_group("matrix")
        matrix = cells.X.T.tocsc()
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = np.array(matrix.shape)
        group["barcodes"] = cells.obs_names.to_numpy().astype("S")
        group["features/id"] = cells.var_names.to_numpy().astype("S")
        group["features/feature_type"] = np.array([b"Peaks"] * cells.n_vars)
    return {"cells.h5": memory.getvalue()}


def _table(separator: str) -> bytes:
    cells = small()
    return (
        pd.DataFrame(cells.X.toarray().T.astype(int), index=cells.var_names, columns=cells.obs_names)
        .to_csv(sep=separator)
        .encode()
    )


def _mtx() -> Files:
    from scipy.io import mmwrite

    cells, memory = small(), io.BytesIO()
    mmwrite(memory, cells.X.T.astype(int))
    return {
        "count.mtx": memory.getvalue(),
        "peaks.bed": "\n".join(name.replace(":", "\t").replace("-", "\t") for name in cells.var_names).encode(),
        "barcodes.txt": "\n".join(cells.obs_names).encode(),
    }


def _fragments() -> Files:
    rng = np.random.default_rng(0)
    lines = [f"chr{1 + i % 3}\t{1000 * (i % 20)}\t{1000 * (i % 20) + 100 + i}\tAC{rng.integers(9)}\t1" for i in range(60)]
    return {"fragments.tsv": "\n".join(lines).encode(), "peaks.bed": _mtx()["peaks.bed"]}


def _loom() -> Files:
    cells, file = small(), io.BytesIO()
    with h5py.File(file, "w") as root:
        root["matrix"] = cells.X.toarray().T if sparse.issparse(cells.X) else np.asarray(cells.X).T
        root["row_attrs/Peak"] = np.array(list(cells.var_names), dtype=object)
        root["col_attrs/CellID"] = np.array(list(cells.obs_names), dtype=object)
    return {"cells.loom": file.getvalue()}


_FEATURES = b"""ENSG1\tG1\tGene Expression\tchr1\t1\t9
chr1:10-20\tchr1:10-20\tPeaks\tchr1\t10\t20
"""
_SINGLE_CELL = b"""barcode,total,is__cell_barcode
NO_BARCODE,9,0
AAACGAAAGAAACGCC-1,5,1
"""


def _model() -> Files:
    import scale_toolkit

    kept: list[bytes] = []
    cells = small()
    scale_toolkit.train(cells, n_components=2, latent=2, max_iter=2, keep_model=kept.append)
    return {"model.pt": kept[0]}


def _read(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        import scale_toolkit

        return scale_toolkit.prepare(read_any(folder / name), min_peaks=0, min_cells=0)

    return read


def _read_model(folder: Path) -> object:
    import scale_toolkit

    return scale_toolkit.encode(small(), model=(folder / "model.pt").read_bytes())


def _read_text(reader: str, name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from importlib import import_module

        module, function = reader.split(":")
        return getattr(import_module(f"scale_toolkit.io.{module}"), function)(folder / name)

    return read


GTF = b"""#!genome-build x
chr1\tH\tgene\t1001\t3000\t.\t+\t.\tgene_id "G1"; gene_name "Alpha"; gene_type "protein_coding";
chr2\tH\tgene\t2001\t5000\t.\t-\t.\tgene_id "G2"; gene_name "Beta";
"""
MEME = b"""MEME version 4

ALPHABET= ACGT

MOTIF M1 one
letter-probability matrix: alength= 4 w= 3 nsites= 20 E= 0
0.9 0.0 0.1 0.0
0.1 0.8 0.1 0.0
0.0 0.0 0.0 1.0
"""

#: kind -> (makes the valid files, reads them)
KINDS: dict[str, tuple[Callable[[], Files], Callable[[Path], object]]] = {
    "h5ad": (_h5ad, _read("cells.h5ad")),
    "h5ad-gzip": (lambda: _h5ad(compression="gzip"), _read("cells.h5ad")),
    "10x": (_tenx, _read("cells.h5")),
    "tsv": (lambda: {"counts.tsv": _table("\t")}, _read("counts.tsv")),
    "csv": (lambda: {"counts.csv": _table(",")}, _read("counts.csv")),
    "tsv-gzip": (lambda: {"counts.tsv.gz": gzip.compress(_table("\t"))}, _read("counts.tsv.gz")),
    "mtx": (_mtx, _read(".")),
    "fragments": (_fragments, lambda folder: read_any(None, fragments=folder / "fragments.tsv", peaks=folder / "peaks.bed")),
    "loom": (_loom, _read("cells.loom")),
    "h5ad-packed": (
        lambda: {"cells.h5ad.gz": gzip.compress(_h5ad()["cells.h5ad"])},
        _read("cells.h5ad.gz"),
    ),
    "features": (
        lambda: {"features.tsv": _FEATURES},
        _read_text("names:read_features", "features.tsv"),
    ),
    "barcodes": (
        lambda: {"singlecell.csv": _SINGLE_CELL},
        _read_text("cells:read_cells", "singlecell.csv"),
    ),
    "bed": (lambda: {"peaks.bed": _mtx()["peaks.bed"]}, _read_text("regions:read_bed", "peaks.bed")),
    "wanted": (
        lambda: {"peaks.txt": _mtx()["peaks.bed"]},
        lambda folder: _read_text("regions:read_wanted", "peaks.txt")(folder),
    ),
    "sizes": (lambda: {"sizes.txt": b"chr1\t10000\nchr2\t20000\n"}, _read_text("groups:read_chrom_sizes", "sizes.txt")),
    "gtf": (lambda: {"genes.gtf": GTF}, _read_text("genes:read_gtf", "genes.gtf")),
    "motifs": (lambda: {"motifs.meme": MEME}, _read_text("motifs:read_motifs", "motifs.meme")),
    "model": (_model, _read_model),
}


class Hang(BaseException):
    """A case took too long."""


def _alarm(*_: object) -> None:
    raise Hang(f"longer than {SECONDS} s")


def batch(kind: str, cases: int, seed: int, folder: Path, keep: Path) -> Counter:
    """Run `cases` cases of a kind in this process; returns how they ended."""
    make, read = KINDS[kind]
    good = make()
    read_folder = folder / kind
    read_folder.mkdir(exist_ok=True)
    _put(read_folder, good)
    read(read_folder)  # the input is valid to begin with
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _alarm)
    ends: Counter = Counter()

    @seeded(seed)
    @settings(
        max_examples=cases, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(sorted(good)), CHANGES)
    def one(name: str, changes: list[Change]) -> None:
        _put(read_folder, {**good, name: changed(good[name], changes)})
        signal.alarm(SECONDS)
        faulthandler.dump_traceback_later(3 * SECONDS, exit=True)  # a hang in compiled code never hears the alarm
        try:
            read(read_folder)
            ends["read"] += 1
        except ScaleError as error:
            ends["refused"] += 1
            if "\n" in str(error):
                _fault(ends, keep, read_folder, kind, error)
        except (Exception, Hang) as error:
            _fault(ends, keep, read_folder, kind, error)
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()

    one()
    return ends


def _put(folder: Path, files: Files) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _fault(ends: Counter, keep: Path, folder: Path, kind: str, error: BaseException) -> None:
    where = traceback.extract_tb(error.__traceback__)[-1]
    name = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
    ends["fault"] += 1
    ends[f"fault: {name}"] += 1
    place = keep / f"{kind}-{ends['fault']}-{os.getpid()}"
    if ends[f"fault: {name}"] <= 3:
        shutil.copytree(folder, place, dirs_exist_ok=True)
        (place / "error.txt").write_text("".join(traceback.format_exception(error)))


def fuzz(kind: str, cases: int, seed: int, keep: Path) -> Counter:
    """Run `cases` cases in processes of their own; one that crashes or hangs leaves its last input in `keep`.

    They are forked, so this process must not have computed with threads: a child would wait for its parent's for ever.
    """
    ends: Counter = Counter()
    keep.mkdir(parents=True, exist_ok=True)
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place, prefix="fuzz-") as name:
        for start in range(0, cases, _BATCH):
            receiver, sender = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.close(receiver)
                    warnings.simplefilter("ignore")
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                    found = batch(kind, min(_BATCH, cases - start), seed + start, Path(name), keep)
                    os.write(sender, json.dumps(found).encode())
                    os._exit(0)
                except BaseException as error:
                    os.write(sender, json.dumps({"fault": 1, f"fault: harness {error!r}"[:500]: 1}).encode())
                    os._exit(1)
            os.close(sender)
            with os.fdopen(receiver, "rb") as pipe:
                told = pipe.read()
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            ends.update(json.loads(told) if told else {})
            if status < 0 or not told:
                end = f"killed by {signal.Signals(-status).name}" if status < 0 else f"longer than {3 * SECONDS} s"
                ends.update({"fault": 1, f"fault: {end}": 1})
                shutil.copytree(Path(name, kind), keep / f"{kind}-crash-{start}", dirs_exist_ok=True)
    return ends


def main() -> int:
    """Read the words, fuzz, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000, help="in all, shared among the kinds")
    parser.add_argument("--only", choices=sorted(KINDS), action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"))
    asked = parser.parse_args()
    kinds = asked.only or list(KINDS)
    failed = False
    for place, kind in enumerate(kinds):
        share = asked.cases // len(kinds) + (place < asked.cases % len(kinds))
        ends = fuzz(kind, share, asked.seed, asked.keep)
        print(json.dumps({"kind": kind, "cases": share, **ends}), flush=True)
        failed = failed or bool(ends["fault"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
