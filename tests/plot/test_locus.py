"""``scale plot locus``: the values of a stretch of the genome by cluster, its genes, and what cannot be drawn."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from typer.testing import CliRunner

import scale_toolkit as scale
from scale_toolkit import keys, plot
from scale_toolkit.cli.app import app
from scale_toolkit.errors import InputError, MissingSlotError, NothingLeftError, OptionError

#: Peaks 0, 3, 6 and 9 of `plant` lie here.
REGION = "chr1:0-9,500"
PEAKS = [0, 3, 6, 9]
GENES = pd.DataFrame(
    [
        ("chr1", 1000, 5000, "+", "G1", "Ada"),
        ("chr1", 2000, 8000, "-", "G2", "Bex"),
        ("chr1", 8900, 20_000, "-", "G3", "Cat"),
        ("chr2", 0, 9000, "+", "G4", "Dog"),
    ],
    columns=["chrom", "start", "end", "strand", "gene_id", "gene_name"],
)
GTF = "".join(
    f'{g.chrom}\tx\tgene\t{g.start + 1}\t{g.end}\t.\t{g.strand}\t.\tgene_id "{g.gene_id}"; gene_name "{g.gene_name}";\n'
    for g in GENES.itertuples()
)


@pytest.fixture(scope="module")
def _trained(plant):
    cells = scale.prepare(plant(n_cells=200), min_peaks=5, min_cells=2)
    return scale.train(cells, n_components=3, latent=4, max_iter=20, n_threads=1)


@pytest.fixture
def trained(_trained):
    return _trained.copy()


def bars(ax, n_clusters=3):
    """Values of the drawn bars, clusters × peaks, as parts of the highest."""
    heights = np.array([bar.get_height() for bar in ax.patches]).reshape(n_clusters, -1)
    return heights / heights.max()


def test_imputed_values_are_the_means_of_the_clusters(trained, monkeypatch):
    monkeypatch.setattr(sys.modules["scale_toolkit.plot.locus"], "_CELLS_AT_A_TIME", 37)
    values = np.asarray(scale.imputed(trained)[:, list(trained.var_names[PEAKS])], float)
    means = pd.DataFrame(values).groupby(trained.obs["cell_type"].to_numpy(), observed=True).mean().to_numpy()
    ax = plot.locus(trained, REGION, "cell_type")
    np.testing.assert_allclose(bars(ax), means / means.max(), rtol=1e-5)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["type2", "type1", "type0"]
    assert "probability of being open" in ax.get_title()
    np.testing.assert_allclose([bar.get_x() for bar in ax.patches[:4]], [0, 3000, 6000, 9000])
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches[:4]], 500)


def test_shares_are_those_of_the_counts_at_equal_depth(trained):
    is_open = trained.X[:, PEAKS].toarray() > 0
    depth, expected = (trained.X > 0).sum(axis=1).A1, []
    for name in ("type0", "type1", "type2"):
        members = (trained.obs["cell_type"] == name).to_numpy()
        shift = np.log(depth.mean() / depth[members].mean())
        expected.append(expit(logit(is_open[members].mean(axis=0)) + shift))
    expected = np.array(expected)
    ax = plot.locus(trained, REGION, "cell_type", signal="open")
    np.testing.assert_allclose(bars(ax), expected / expected.max(), rtol=1e-6)
    # without a model, and without the column of depths
    del trained.varm[keys.DECODER.name]
    del trained.obs["n_peaks"]
    again = plot.locus(trained, REGION, "cell_type")
    np.testing.assert_allclose(bars(again), bars(ax))


def test_cells_without_a_label_are_left_out(trained):
    labels = trained.obs["cell_type"].astype(object)
    labels.iloc[::4] = None
    trained.obs["some"] = pd.Categorical(labels)
    expected = plot.locus(trained[labels.notna().to_numpy()].copy(), REGION, "cell_type")
    np.testing.assert_allclose(bars(plot.locus(trained, REGION, "some")), bars(expected), rtol=1e-6)


def test_genes_lie_below_and_do_not_touch(trained):
    ax = plot.locus(trained, REGION, "cell_type", genes=GENES)
    rows = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert set(rows) == {"Ada", "Bex", "Cat"}
    assert rows["Ada"] != rows["Bex"] and rows["Ada"] == rows["Cat"]
    lines = {tuple(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 2}
    assert lines == {(1000, 5000), (2000, 8000), (8900, 9500)}
    arrows = {(line.get_xdata()[0], line.get_marker()) for line in ax.lines if line.get_marker() in "<>"}
    assert arrows == {(1000, ">"), (8000, "<")}


def test_a_name_at_the_right_edge_ends_there(trained):
    edge = GENES[:1].assign(start=9300, end=9400)
    (name,) = plot.locus(trained, REGION, "cell_type", genes=edge).texts
    assert (name.get_position()[0], name.get_ha()) == (9500, "right")


def test_no_gene_and_many_genes_are_said(trained):
    words = [text.get_text() for text in plot.locus(trained, "chr1:6000-6500", "cell_type", genes=GENES[:1]).texts]
    assert words == ["no gene"]
    many = pd.concat([GENES[:1]] * 30, ignore_index=True)
    words = [text.get_text() for text in plot.locus(trained, REGION, "cell_type", genes=many).texts]
    assert words == ["Ada"] * 8 + ["and 22 more genes"]


def test_chr1_and_1_are_one(trained, tmp_path):
    other = GENES.assign(chrom=GENES["chrom"].str.removeprefix("chr"))
    plot.locus(trained, REGION, "cell_type", genes=GENES, save=tmp_path / "a.svg")
    plot.locus(trained, REGION, "cell_type", genes=other, save=tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    bare = plot.locus(trained, REGION.removeprefix("chr"), "cell_type", genes=other)
    np.testing.assert_allclose(bars(bare), bars(plot.locus(trained, REGION, "cell_type")))


@pytest.mark.parametrize(
    ("region", "options", "error", "message"),
    [
        ("chr1", {}, InputError, r"the region is 'chr1'; expected chrom:start-end with start < end"),
        ("chr1:9-9", {}, InputError, r"the region is 'chr1:9-9'"),
        ("chrZ:1-900", {}, InputError, r"no peak is on chrZ; expected a chromosome of these peaks \(chr1, "),
        ("chr1:600-900", {}, NothingLeftError, r"no peak overlaps chr1:600-900.*nearest peak is chr1:0-500, 100 bases"),
        (REGION, {"signal": "raw"}, OptionError, r"signal is 'raw'; expected one of auto, imputed, open"),
        (REGION, {"genes": GENES[3:]}, InputError, r"no gene of the GTF is on chr1; expected a GTF.*this one has chr2"),
        (REGION, {"groupby": "nothing"}, MissingSlotError, r"obs\['nothing'\] is missing"),
    ],
)
def test_what_cannot_be_drawn(trained, region, options, error, message):
    with pytest.raises(error, match=message):
        plot.locus(trained, region, **{"groupby": "cell_type"} | options)


def test_slots_that_are_missing(trained, plant):
    trained.var[keys.BIAS.name] = np.nan
    with pytest.raises(NothingLeftError, match=r"none of 4 peaks in chr1:0-9,500 was modelled.*`signal=open`"):
        plot.locus(trained, REGION, "cell_type")
    with pytest.raises(MissingSlotError, match="scale train"):
        plot.locus(plant(), REGION, "cell_type", signal="imputed")
    named = plant()
    named.var_names = [f"peak{j}" for j in range(named.n_vars)]
    with pytest.raises(InputError, match="peak names are not intervals"):
        plot.locus(named, REGION, "cell_type")
    del trained.X
    with pytest.raises(MissingSlotError, match="X is missing"):
        plot.locus(trained, REGION, "cell_type", signal="open")


def test_the_command_draws_what_the_function_does(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained.write_h5ad("cells.h5ad")
    (tmp_path / "genes.gtf").write_text(GTF)
    shown = {"cell_type": {"groupby": "cell_type"}}
    for number, (words, options) in enumerate(
        [
            ("--groupby cell_type", shown["cell_type"]),
            ("--groupby cell_type --signal open", shown["cell_type"] | {"signal": "open"}),
            ("--groupby cell_type --signal imputed --gtf genes.gtf", shown["cell_type"] | {"genes": GENES}),
        ]
    ):
        result = CliRunner().invoke(app, ["plot", "locus", REGION, "cells.h5ad", *words.split(), "-o", f"{number}.svg"])
        assert result.exit_code == 0, result.stderr
        plot.locus(trained, REGION, **options, save="expected.svg")
        assert (tmp_path / f"{number}.svg").read_bytes() == (tmp_path / "expected.svg").read_bytes()
    assert len({(tmp_path / f"{number}.svg").read_bytes() for number in range(3)}) == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("chr1 cells.h5ad --groupby cell_type -o a.svg", 1, "the region is 'chr1'"),
        ("chr1:0-900 cells.h5ad -o a.svg", 1, "obs['scale_cluster'] is missing; expected the output of `scale cluster`"),
        ("chr1:0-900 cells.h5ad -o a.gif", 2, "-o is a.gif"),
        ("chr1:0-900 cells.h5ad --gtf none.gtf -o a.svg", 1, "none.gtf does not exist"),
    ],
)
def test_the_command_refuses(trained, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    trained.write_h5ad("cells.h5ad")
    result = CliRunner().invoke(app, ["plot", "locus", *words.split()])
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(f"error: {message}") and result.stderr.count("\n") == 1
    assert not (tmp_path / "a.svg").exists()
