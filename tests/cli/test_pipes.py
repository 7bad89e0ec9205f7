"""Every option that takes a file takes a pipe as well: a FIFO, ``<(…)`` or /dev/stdin, and loses nothing of it."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
import typer
from scipy import sparse

from scale_toolkit.cli import app

SCALE = Path(sys.executable).with_name("scale")
CHROMOSOME = 450_000

#: Command and option -> the words of the call; {} is the input, OUT a file to compare.
CASES = {
    ("prepare", "inputs"): ("cells.h5ad", "prepare {} -o OUT"),
    ("prepare", "inputs, a table"): ("table.tsv", "prepare {} -o OUT"),
    ("prepare", "inputs, a packed table"): ("table.tsv.gz", "prepare {} -o OUT"),
    ("prepare", "--blacklist"): ("blacklist.bed", "prepare cells.h5ad --blacklist {} -o OUT"),
    ("prepare", "--fragments"): ("fragments.tsv", "prepare --fragments {} --peaks peaks.bed -o OUT"),
    ("prepare", "--fragments, packed"): ("fragments.tsv.gz", "prepare --fragments {} --peaks peaks.bed -o OUT"),
    ("prepare", "--peaks"): ("peaks.bed", "prepare --fragments fragments.tsv --peaks {} -o OUT"),
    ("prepare", "--barcodes"): ("barcodes.txt", "prepare cells.h5ad --barcodes {} -o OUT"),
    ("prepare", "--metadata"): ("barcodes.txt", "prepare cells.h5ad --metadata {} -o OUT"),
    ("prepare", "--gtf"): ("genes.gtf", "prepare --fragments fragments.tsv --peaks peaks.bed --gtf {} -o OUT"),
    ("select-peaks", "source"): ("cells.h5ad", "select-peaks {} --n-peaks 300 -o OUT"),
    ("train", "source"): ("cells.h5ad", "train {} -k 3 --max-iter 20 -o OUT"),
    ("train", "--pretrain"): ("model.pt", "train cells.h5ad --pretrain {} -o OUT"),
    ("train", "--pretrain-peaks"): ("peaks.bed", "train cells.h5ad --pretrain release.pt --pretrain-peaks {} -o OUT"),
    ("impute", "source"): ("done.h5ad", "impute {} -o OUT"),
    ("impute", "--peaks"): ("kept.bed", "impute done.h5ad --peaks {} -o OUT"),
    ("impute", "--cells"): ("barcodes.txt", "impute done.h5ad --cells {} -o OUT"),
    ("impute", "--chrom-sizes"): (
        "sizes.txt",
        "impute done.h5ad --per-group kmeans --group-dir groups --chrom-sizes {} -o OUT",
    ),
    ("impute", "--model"): ("model.pt", "impute done.h5ad --validate --model {} -o OUT"),
    ("embed", "source"): ("done.h5ad", "embed {} --method tsne -o OUT"),
    ("cluster", "source"): ("done.h5ad", "cluster {} --method kmeans -k 3 -o OUT"),
    ("markers", "source"): ("done.h5ad", "markers {} -o OUT"),
    ("markers", "--gtf"): ("genes.gtf", "markers done.h5ad --gtf {} -o OUT"),
    ("markers", "--genome"): ("genome.fa", "markers done.h5ad --motifs motifs.txt --genome {} -o OUT"),
    ("markers", "--motifs"): ("motifs.txt", "markers done.h5ad --genome genome.fa --motifs {} -o OUT"),
    ("doublets", "--fragments"): ("fragments.tsv", "doublets done.h5ad --fragments {} --rate 0.1 -o OUT"),
    ("annotate", "--markers"): ("types.tsv", "annotate done.h5ad --markers {} -o OUT"),
    ("map", "--reference"): ("done.h5ad", "map cells.h5ad --reference {} -o OUT"),
    ("map", "--reference, a model"): ("model.pt", "map cells.h5ad --reference {} -o OUT"),
    ("export", "source"): ("done.h5ad", "export {} --to h5mu -o copy.h5mu"),
    ("plan", "source"): ("cells.h5ad", "plan {} -o plan.json"),
    ("verify", "source"): ("done.h5ad", "verify {}"),
    ("report", "source"): ("done.h5ad", "report {} -o page.html"),
    ("plot qc", "source"): ("done.h5ad", "plot qc {} -o figure.pdf"),
    ("run", "-d"): ("raw.h5ad", "run -d {} -k 3 --max-iter 20 --embed tsne -o results"),
}

#: Options that are handed to the function that reads another one, which is tried.
SAME = {
    ("verify", "-i"): ("prepare", "inputs"),
    ("verify", "--blacklist"): ("prepare", "--blacklist"),
    ("verify", "--barcodes"): ("prepare", "--barcodes"),
    ("verify", "--metadata"): ("prepare", "--metadata"),
    ("run", "--barcodes"): ("prepare", "--barcodes"),
    ("run", "--metadata"): ("prepare", "--metadata"),
    ("verify", "--model"): ("train", "--pretrain"),
    ("run", "inputs"): ("run", "-d"),
    ("choose-k", "source"): ("cluster", "source"),
    ("doublets", "source"): ("cluster", "source"),
    ("annotate", "source"): ("cluster", "source"),
    ("map", "source"): ("cluster", "source"),
    ("genes", "source"): ("cluster", "source"),
    ("genes", "--gtf"): ("markers", "--gtf"),
    ("annotate", "--gtf"): ("markers", "--gtf"),
    ("plot embedding", "--gtf"): ("markers", "--gtf"),
    ("run", "--fragments"): ("prepare", "--fragments"),
    ("run", "--peaks"): ("prepare", "--peaks"),
    ("run", "--blacklist"): ("prepare", "--blacklist"),
    ("run", "--gtf"): ("markers", "--gtf"),
    ("run", "--pretrain"): ("train", "--pretrain"),
    ("run", "--pretrain-peaks"): ("train", "--pretrain-peaks"),
    ("plot embedding", "source"): ("plot qc", "source"),
    ("plot heatmap", "source"): ("plot qc", "source"),
    ("plot confusion", "source"): ("plot qc", "source"),
    ("plot correlation", "source"): ("plot qc", "source"),
    ("plot specificity", "source"): ("plot qc", "source"),
    ("plot loss", "source"): ("plot qc", "source"),
    ("plot contrast", "source"): ("plot qc", "source"),
    ("plot locus", "source"): ("plot qc", "source"),
    ("plot locus", "--gtf"): ("markers", "--gtf"),
}


def call(words: str, folder: Path) -> tuple[int, str]:
    """Run ``scale`` in `folder`, in this process; gives its exit code and what it said on stderr."""
    on_term = signal.getsignal(signal.SIGTERM)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app.main([*words.split(), *(["--quiet"] if "--debug" not in words else [])])
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGTERM, on_term)
    return code, err.getvalue()


def release_model(n_peaks: int) -> dict[str, torch.Tensor]:
    """Weights as SCALE 1.1.2 saves them: they name no peaks."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "encoder.hidden.0": (16, n_peaks),
        "encoder.sample.mu": (4, 16),
        "encoder.sample.log_var": (4, 16),
        "decoder.reconstruction": (n_peaks, 4),
    }
    weights = {f"{name}.weight": torch.randn(shape, generator=generator) / 50 for name, shape in shapes.items()}
    weights |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    weights |= {"pi": torch.ones(3) / 3, "mu_c": torch.randn(4, 3, generator=generator), "var_c": torch.ones(4, 3)}
    return weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory, plant) -> Path:
    """A folder with one input of every kind; all text is longer than any buffer that a reader looks at."""
    place = tmp_path_factory.mktemp("pipes")
    cells = plant(n_cells=90, n_peaks=900)
    cells.var_names = [f"chr1:{500 * j}-{500 * j + 400}" for j in range(900)]
    cells.write_h5ad(place / "raw.h5ad")
    table = pd.DataFrame(cells.X.toarray().T.astype(int), cells.var_names, cells.obs_names)
    table.to_csv(place / "table.tsv", sep="\t")
    (place / "peaks.bed").write_text("".join(f"chr1\t{500 * j}\t{500 * j + 400}\n" for j in range(900)))
    padding = "".join(f"# line {number} of many that are passed over\n" for number in range(2000))
    (place / "blacklist.bed").write_text(padding + "chr1\t0\t20000\n")
    rows, columns = sparse.coo_matrix(cells.X).coords
    order = np.argsort(columns, kind="stable")
    (place / "fragments.tsv").write_text(
        "".join(
            f"chr1\t{500 * j + 20}\t{500 * j + 320}\t{cells.obs_names[i]}\t1\n"
            for i, j in zip(rows[order], columns[order], strict=True)
        )
    )
    (place / "barcodes.txt").write_text("".join(f"{name}\t{'x' * 400}\n" for name in cells.obs_names))
    note = "x" * 400
    (place / "types.tsv").write_text(
        "type\tregion\tnote\n" + "".join(f"T{j % 3}\tchr1:{500 * j}-{500 * j + 9}\t{note}\n" for j in range(99))
    )
    (place / "sizes.txt").write_text(padding + f"chr1\t{CHROMOSOME}\n")
    (place / "genes.gtf").write_text(
        "".join(
            f'chr1\t.\tgene\t{9000 * n + 1}\t{9000 * n + 400}\t.\t+\t.\tgene_id "G{n}"; note "{"x" * 1500}"\n'
            for n in range(49)
        )
    )
    rng = np.random.default_rng(0)
    sequence = "".join(rng.choice(list("ACGT"), CHROMOSOME))
    lines = [sequence[start : start + 60] for start in range(0, len(sequence), 60)]
    (place / "genome.fa").write_text(">chr1\n" + "\n".join(lines) + "\n")
    motifs = []
    for number in range(300):
        counts = rng.integers(1, 40, (4, 8))
        motifs += [f">M{number} motif{number}", *(f"{b} [{' '.join(map(str, row))}]" for b, row in zip("ACGT", counts))]
    (place / "motifs.txt").write_text("\n".join(motifs[: 5 * 12]) + "\n" * 70_000)
    torch.save(release_model(900), place / "release.pt")
    for name in ("table.tsv", "fragments.tsv"):
        (place / f"{name}.gz").write_bytes(gzip.compress((place / name).read_bytes(), 0))
    for words in (
        "prepare raw.h5ad -o cells.h5ad --min-peaks 1 --min-cells 1",
        "train cells.h5ad -k 3 --max-iter 20 --model model.pt -o trained.h5ad",
        "cluster trained.h5ad --method kmeans -k 3 -o done.h5ad",
    ):
        assert call(words, place)[0] == 0, words
    kept = anndata.read_h5ad(place / "cells.h5ad", backed="r").var_names.str.replace("[:-]", "\t", regex=True)
    (place / "kept.bed").write_text(padding + "\n".join(kept) + "\n")
    for name in {name for name, _ in CASES.values()}:
        assert (place / name).stat().st_size > 8192, name
    return place


def file_options() -> set[tuple[str, str]]:
    """Every argument and option of the command line that reads a file, by its metavar."""
    found, waiting = set(), [("", typer.main.get_command(app.app))]
    while waiting:
        name, command = waiting.pop()
        if hasattr(command, "commands"):
            waiting += [(f"{name} {key}".strip(), value) for key, value in command.commands.items()]
            continue
        for parameter in command.params:
            metavar = parameter.metavar or ""
            reads = any(word in metavar for word in ("FILE", "BED", "INPUT", "ORIGINAL", "TABLE"))
            option = parameter.opts[-1]
            if reads and (name, option) not in OUTPUTS:
                found.add((name, option))
    return found


OUTPUTS = {
    *((name, "--output") for name in ("prepare", "select-peaks", "train", "impute", "embed", "cluster", "markers")),
    *((name, "--output") for name in ("simulate", "plan", "report")),
    *(("choose-k", "--output"), ("choose-k", "--figure")),
    *(("doublets", "--output"), ("doublets", "--figure"), ("annotate", "--output")),
    *(("map", "--output"), ("map", "--figure"), ("genes", "--output")),
    *(("train", "--model"), ("embed", "--figure"), ("markers", "--table"), ("markers", "--motif-table")),
}


def test_every_option_that_reads_a_file_is_tried():
    assert file_options() - set(CASES) - set(SAME) == set()
    assert set(SAME.values()) <= set(CASES)


def outcome(folder: Path, words: str) -> tuple[int, str, dict[str, object]]:
    """Run a command, and return its exit code, what it said, and what is in the file it wrote."""
    written = folder / "OUT"
    written.unlink(missing_ok=True)
    if words.startswith("prepare") and "--min" not in words:
        words += " --min-peaks 1 --min-cells 1"
    code, said = call(words, folder)
    if not written.exists():
        return code, said, {}
    adata = anndata.read_h5ad(written)
    dense = lambda value: value.toarray() if sparse.issparse(value) else np.asarray(value)  # noqa: E731
    content = {"cells": list(adata.obs_names), "peaks": list(adata.var_names), "X": dense(adata.X).tolist()}
    content |= {f"obs {name}": [str(value) for value in adata.obs[name]] for name in adata.obs}
    content |= {f"var {name}": [str(value) for value in adata.var[name]] for name in adata.var}
    content |= {f"obsm {name}": dense(value).tolist() for name, value in adata.obsm.items()}
    return code, said, content


@pytest.mark.parametrize("case", CASES, ids=[" ".join(case) for case in CASES])
def test_a_fifo_gives_what_the_file_gives(folder, tmp_path, case):
    name, words = CASES[case]
    wanted = outcome(folder, words.format(name))
    assert wanted[0] == 0, wanted[1]
    fifo = folder / "fifo"
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes((folder / name).read_bytes()), daemon=True)
    writer.start()
    found = outcome(folder, words.format("fifo"))
    writer.join(10)
    assert not writer.is_alive()
    assert found[0] == 0, found[1]
    assert found[2] == wanted[2]


@pytest.mark.parametrize(
    "words",
    [
        "prepare --fragments fragments.tsv --peaks <(cat peaks.bed)",
        "prepare --fragments <(cat fragments.tsv) --peaks <(cat peaks.bed)",
        "prepare --fragments /dev/stdin --peaks peaks.bed < fragments.tsv",
        "prepare --fragments - --peaks peaks.bed < fragments.tsv",
        "prepare < table.tsv",
        "prepare /dev/stdin < raw.h5ad",
        "prepare <(cat table.tsv.gz)",
    ],
)
def test_in_a_shell(folder, words):
    """By the shell's own means, in a process of its own; `cat` in front makes a pipe of every redirection."""
    plain = words.replace("<(cat ", "").replace(")", "").replace("- --peaks", "fragments.tsv --peaks")
    plain = plain.replace("/dev/stdin", "raw.h5ad" if "raw" in words else "fragments.tsv").split(" <")[0]
    wanted = outcome(folder, f"{plain if 'table' not in words else 'prepare table.tsv'} -o OUT")[2]
    program, _, given = words.partition(" < ")
    line = f"{'cat ' + given + ' | ' if given else ''}{SCALE} {program} --quiet --min-peaks 1 --min-cells 1 -o OUT2"
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "OUT2").rename(folder / "copy.h5ad")
    found = anndata.read_h5ad(folder / "copy.h5ad")
    assert (list(found.obs_names), list(found.var_names)) == (wanted["cells"], wanted["peaks"])
    assert found.X.toarray().tolist() == wanted["X"]
