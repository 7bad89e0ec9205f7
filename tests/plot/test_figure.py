from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from scale_toolkit import errors, plot
from scale_toolkit.io import files
from scale_toolkit.plot import _figure

RELEASE = [
    "plot_confusion_matrix",
    "plot_heatmap",
    "plot_embedding",
    "corr_heatmap",
    "feature_specifity",
    "lineplot",
    "plot_metrics",
    "sort_by_classes",
]


@pytest.mark.parametrize("name", [*RELEASE, "plot_loss"])
def test_names_of_the_release_are_here(name):
    assert callable(getattr(plot, name))
    assert name in plot.__all__


def test_figures_need_neither_pyplot_nor_torch_nor_scanpy():
    code = """
import sys, numpy, pandas
from scale_toolkit import plot
plot.plot_confusion_matrix(numpy.eye(2, dtype=int))
assert not {"matplotlib.pyplot", "torch", "scanpy", "typer", "scale_toolkit.stages"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["pdf", "png", "svg"])
def test_equal_figures_are_equal_bytes_in_the_format_of_the_suffix(cells, tmp_path, kind):
    starts = {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<?xml"}
    paths = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for path in paths:
        plot.embedding(cells, save=path)
    a, b = (path.read_bytes() for path in paths)
    assert a.startswith(starts[kind])
    assert a == b
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{kind}", f"b.{kind}"]
    if kind == "svg":
        assert b"UMAP 1</text>" in a


def test_suffix_in_capitals_and_path_as_text(cells, tmp_path):
    plot.embedding(cells, save=str(tmp_path / "UMAP.PDF"))
    assert (tmp_path / "UMAP.PDF").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["umap.gif", "umap"])
def test_other_formats_are_refused(cells, tmp_path, name):
    with pytest.raises(
        errors.OptionError, match=rf"the figure's name is '{name}'; expected a name that ends in .pdf, .png, .svg"
    ):
        plot.embedding(cells, save=tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_figure_and_no_part(cells, tmp_path, monkeypatch):
    path = tmp_path / "umap.png"
    path.write_text("old")

    def broken(self, file, **options):
        file.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.raises(errors.ScaleError, match=r"umap.png cannot be written .No space left on device.; make room"):
        plot.embedding(cells, save=path)
    assert [p.name for p in tmp_path.iterdir()] == ["umap.png"]
    assert path.read_text() == "old"


def test_a_folder_that_is_not_there(cells, tmp_path):
    with pytest.raises(errors.ScaleError, match=r"the output folder .*none does not exist; make it first"):
        plot.embedding(cells, save=tmp_path / "none" / "umap.pdf")


def test_what_a_killed_process_left_is_removed_by_the_next_figure(cells, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leftover = tmp_path / f".umap.png.scale-{files._machine()}-{ended.pid}-x"
    leftover.mkdir()
    (leftover / "new.png").write_text("half")
    plot.embedding(cells, save=tmp_path / "umap.png")
    assert [path.name for path in tmp_path.iterdir()] == ["umap.png"]


def test_a_link_stays_and_its_target_is_replaced(cells, tmp_path):
    (tmp_path / "target.png").write_text("old")
    (tmp_path / "umap.png").symlink_to("target.png")
    plot.embedding(cells, save=tmp_path / "umap.png")
    assert (tmp_path / "umap.png").is_symlink()
    assert (tmp_path / "target.png").read_bytes().startswith(b"\x89PNG")


def test_axes_of_a_part_of_a_figure_are_saved_as_the_whole_one(cells, tmp_path):
    first, _ = Figure(figsize=(8, 4)).subfigures(1, 2)
    plot.embedding(cells, ax=first.add_subplot(), names_on_data=True, save=tmp_path / "parts.png")
    assert (tmp_path / "parts.png").stat().st_size > 0


def test_the_callers_settings_stay_as_they_were(cells):
    with mpl.rc_context({"font.size": 17.0, "axes.spines.top": True}):
        before = dict(mpl.rcParams)
        ax = plot.history(cells, "loss")
        assert dict(mpl.rcParams) == before
    assert not ax.spines["top"].get_visible()


def test_a_notebook_gets_a_figure_that_pyplot_shows(cells):
    import matplotlib.pyplot as plt

    assert not plt.get_fignums()
    plot.embedding(cells)
    assert not plt.get_fignums()
    with mpl.rc_context({"interactive": True}):
        ax = plot.embedding(cells)
        assert mpl.is_interactive()
    assert [plt.figure(number) for number in plt.get_fignums()] == [ax.figure]
    plt.close("all")


def test_in_a_fresh_notebook_every_figure_is_shown(tmp_path):
    """A kernel names its backend in the environment; matplotlib becomes interactive when that is loaded, not before."""
    (tmp_path / "matplotlib_inline_probe.py").write_text(
        "import matplotlib\nfrom matplotlib.backends.backend_agg import *\nmatplotlib.interactive(True)\n"
    )
    code = (
        "import anndata, numpy as np, matplotlib.pyplot as plt\n"
        "from scale_toolkit import plot\n"
        "cells = anndata.AnnData(np.ones((5, 2)), obsm={'X_umap': np.random.rand(5, 2)})\n"
        "axes = [plot.embedding(cells, basis='X_umap', color=None) for _ in range(2)]\n"
        "assert [plt.figure(n) for n in plt.get_fignums()] == [ax.figure for ax in axes], plt.get_fignums()\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = os.environ | {"MPLBACKEND": "module://matplotlib_inline_probe", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def linear_rgb(color):
    color = np.asarray(color)
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize(("n", "apart"), [(1, 0), (8, 0.15), (24, 0.08), (60, 0.01)])
def test_colours_are_distinct(n, apart):
    palette = np.array(plot.colors(n))
    assert palette.shape == (n, 3)
    assert palette.min() >= 0
    assert palette.max() <= 1
    distance = np.linalg.norm(palette[:, None] - palette[None], axis=2) + np.eye(n) * 9
    assert distance.min() > apart
    np.testing.assert_array_equal(palette, plot.colors(80)[:n])  # a cluster keeps its colour when others join


def test_first_eight_colours_differ_for_the_colour_blind():
    """Deuteranopia and protanopia by the matrices of Viénot, Brettel and Mollon (1999), in linear RGB."""
    deuteranopia = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    protanopia = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    for matrix in (deuteranopia, protanopia):
        seen = linear_rgb(plot.colors(8)) @ matrix.T
        distance = np.linalg.norm(seen[:, None] - seen[None], axis=2) + np.eye(8) * 9
        assert distance.min() > 0.03


def test_palettes():
    names = ["a", "b", "c"]
    assert _figure.palette_for(names, ["red", "green", "blue", "black"]) == ["red", "green", "blue"]
    assert _figure.palette_for(names, {"b": "red"}) == [_figure.UNKNOWN, "red", _figure.UNKNOWN]
    np.testing.assert_allclose(_figure.palette_for(names, "tab10"), mpl.colormaps["tab10"].colors[:3])
    np.testing.assert_allclose(_figure.palette_for(names, "viridis")[1], mpl.colormaps["viridis"](0.5))
    with pytest.raises(errors.OptionError, match="the palette has 1 colours; expected 3"):
        _figure.palette_for(names, ["red"])


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ([10, 2, 1, 2], ["1", "2", "10"]),
        (["10", "2", "1"], ["1", "2", "10"]),
        (pd.Categorical(["10", "2", "1"]), ["1", "2", "10"]),
        (pd.Categorical(["b", "a"], categories=["b", "c", "a"]), ["b", "a"]),
        (["b", "a", np.nan], ["a", "b"]),
        ([True, False], ["False", "True"]),
    ],
)
def test_order_of_categories(labels, order):
    series = _figure.as_categories(pd.Series(labels))
    assert list(series.cat.categories) == order
    assert [str(x) for x in labels] == [str(x) for x in series]


def test_text_in_a_pdf_stays_text(cells, tmp_path):
    plot.embedding(cells, save=tmp_path / "umap.pdf")
    content = (tmp_path / "umap.pdf").read_bytes()
    assert b"/Subtype /Type0" in content or b"/FontFile2" in content  # TrueType, not outlines
    streams = [zlib.decompress(s) for s in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.S) if s[:1] == b"x"]
    assert any(b"Tj" in s or b"TJ" in s for s in streams)
