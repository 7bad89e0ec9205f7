"""The page's text: what it shows and leaves out, that it needs nothing else, and that names from the file stay text."""

from __future__ import annotations

import base64
import html
import json
import re
from html.parser import HTMLParser

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scale_toolkit import errors, keys, report, utils
from scale_toolkit.core import metrics
from scale_toolkit.plot.heatmaps import share_of_open_cells
from scale_toolkit.report.build import _json
from scale_toolkit.report.markers import most_specific

HOSTILE = "</script><img src=x onerror=alert(1)>%{x}&amp;"


class Page(HTMLParser):
    """The page's elements, its visible text and its data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.within = ""
        self.feed(text)
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.within = ""

    def handle_data(self, data):
        if self.within == "script":
            self.scripts[-1] += data
        elif self.within != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def numbers(packed):
    return np.frombuffer(base64.b64decode(packed["data"]), packed["type"])


def values(array):
    """What plotly keeps in base64, or a plain list."""
    if isinstance(array, dict):
        found = np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"])
        return found.reshape([int(n) for n in array["shape"].split(",")]) if "shape" in array else found
    return np.asarray(array)


def test_the_page_says_what_was_done(analysed):
    page = Page(report.page(analysed, name="planted"))
    for words in (
        "planted", "clusters 3", "--min-peaks 20", "--n-peaks 150 --mark-only", "--n-components 3 --max-iter 20",
        "--method kmeans --n-clusters 3 --reference cell_type", "Worth a look", "Training", "kmeans",
    ):  # fmt: skip
        assert words in page.text
    n_peaks = int(analysed.var["selected"].sum())
    assert f"The model saw {n_peaks} of them, the best by variability" in page.text
    found = metrics.agreement(analysed.obs["cell_type"].astype(str), analysed.obs["scale_cluster"].astype(str))
    assert f"ARI {found.ari:.3f}, NMI {found.nmi:.3f}, F1 {found.f1:.3f} over {analysed.n_obs} labelled cells" in page.text
    rows = {
        name: f"{name} {count} {count / analysed.n_obs:.1%}"
        for name, count in analysed.obs["scale_cluster"].value_counts().items()
    }
    for row in rows.values():
        assert row in page.text


def test_how_much_of_a_cluster_comes_back(analysed):
    from scale_toolkit.stages.cluster import cluster

    assert "scale cluster --stability 20 shows it" in Page(report.page(analysed)).text
    cluster(analysed, method="kmeans", n_clusters=7, stability=5)
    mean = analysed.uns["scale_cluster_stability"]["mean"]
    text = Page(report.page(analysed)).text
    assert f"{(mean < 0.6).sum()} of 7 clusters do not come back" in text
    assert "Stability: the mean Jaccard index" in text
    first = text.index("cluster cells share open peaks (median) silhouette stability")
    for name, value in mean.items():
        assert f" {value:.2f} " in text[first:].split(f" {name} {(analysed.obs['scale_cluster'] == name).sum()} ", 1)[1][:40]
    analysed.obs["scale_cluster"] = analysed.obs["scale_cluster"].cat.codes.to_numpy() // 2  # by hand: it is no longer theirs
    assert "scale cluster --stability 20 shows it" in Page(report.page(analysed)).text


def test_the_figures_hold_the_data(analysed, plots):
    data = Page(report.page(analysed)).data
    places = {attrs["data-plot"] for tag, attrs in Page(report.page(analysed)).elements if "data-plot" in attrs}
    assert places == set(data) - {"embedding"}
    assert places == plots
    cells = data["embedding"]
    assert sorted(cells["names"]) == sorted(analysed.obs_names)
    shuffled = analysed[cells["names"]]
    np.testing.assert_array_equal(numbers(cells["x"]), shuffled.obsm["X_umap"][:, 0])
    np.testing.assert_array_equal(numbers(cells["y"]), shuffled.obsm["X_umap"][:, 1])
    columns = {column["name"]: column for column in cells["columns"]}
    assert list(columns)[:4] == ["scale_cluster", "cell_type", "batch", "n_peaks"]
    for name in ("scale_cluster", "cell_type", "batch"):
        named = np.array(columns[name]["names"])[numbers(columns[name]["values"])]
        np.testing.assert_array_equal(named, shuffled.obs[name].astype(str))
    np.testing.assert_array_equal(numbers(columns["n_peaks"]["values"]), shuffled.obs["n_peaks"])
    assert "kmeans" not in columns  # it is scale_cluster
    assert cells["shown"] == ["scale_cluster", "cell_type"]
    np.testing.assert_allclose(values(data["curve_loss"]["data"][0]["y"]), analysed.uns["scale_history"]["loss"])
    table = pd.crosstab(analysed.obs["cell_type"], analysed.obs["scale_cluster"])
    drawn = data["confusion"]["data"][0]
    np.testing.assert_array_equal(values(drawn["customdata"]), table.loc[drawn["y"], drawn["x"]])
    box = data["posterior"]["data"][1]
    best = analysed.obsm["scale_posterior"].max(1)[(analysed.obs["scale_cluster"] == "1").to_numpy()].astype(float)
    assert values(box["median"])[0] == pytest.approx(np.median(best))
    assert values(data["histogram"]["data"][0]["y"]).sum() == 150


def test_the_heat_map_shows_shares_of_open_cells_of_specific_peaks(analysed):
    drawn = Page(report.page(analysed)).data["markers"]["data"][0]
    is_open = pd.DataFrame(analysed[:, drawn["x"]].X.toarray() > 0)
    expected = is_open.groupby(analysed.obs["scale_cluster"].astype(str).to_numpy()).mean()
    np.testing.assert_allclose(values(drawn["customdata"]), expected, rtol=1e-6)
    np.testing.assert_allclose(values(drawn["z"]), expected / expected.max(), rtol=1e-6)
    scores = utils.specificity(analysed)
    shares = share_of_open_cells(analysed.X, analysed.obs["scale_cluster"])
    chosen, owner = most_specific(scores.to_numpy(), shares)
    assert list(analysed.var_names[chosen]) == drawn["x"]
    for peak, cluster in zip(chosen, owner):
        assert shares[:, peak].argmax() == cluster
        rivals = [j for j in np.flatnonzero(shares.argmax(0) == cluster) if j not in chosen]
        assert scores.iloc[peak, cluster] >= scores.iloc[rivals, cluster].max()


def test_markers_that_were_tested_come_first(analysed):
    peaks = list(analysed.var_names[[5, 3, 8]])
    table = pd.DataFrame({
        "cluster": pd.Categorical(["0", "0", "2"], categories=["0", "1", "2"]), "peak": peaks,
        "nearest_gene": ["Gad1", "Gad1", "<b>"],
    })  # fmt: skip
    analysed.uns["scale_markers"] = table
    motif = {"cluster": "0", "motif": "NEUROD1", "fdr": 0.01, "odds_ratio": 3.0}
    analysed.uns["scale_motifs"] = pd.DataFrame([motif, motif | {"motif": "CTCF", "fdr": 0.5}])
    page = Page(report.page(analysed))
    assert page.data["markers"]["data"][0]["x"] == peaks
    assert f"0 2 {peaks[0]} Gad1 NEUROD1" in page.text
    assert "1 0 none – –" in page.text
    assert "CTCF" not in page.text
    genes = np.full(analysed.n_vars, "", object)
    genes[[5, 8]] = ["Gad1", "<b>"]
    analysed.var["nearest_gene"] = genes
    page = Page(report.page(analysed))
    assert page.data["markers"]["data"][0]["x"] == [f"Gad1 {peaks[0]}", peaks[1], f"&lt;b&gt; {peaks[2]}"]
    analysed.uns["scale_markers"] = table.iloc[:0]
    page = Page(report.page(analysed))
    assert "found none that is open more often in one cluster than in the rest" in page.text
    assert "markers" not in page.data


def test_a_peak_that_two_clusters_share_keeps_both_of_its_columns(analysed):
    shared, other = analysed.var_names[[5, 3]]
    cluster = pd.Categorical(["0", "1", "1", "2"], categories=["0", "1", "2"])
    analysed.uns["scale_markers"] = pd.DataFrame({"cluster": cluster, "peak": [shared, shared, other, shared]})
    figure = Page(report.page(analysed)).data["markers"]
    drawn, axis = figure["data"][0], figure["layout"]["xaxis"]
    assert drawn["x"] == [shared, f"{shared} (2)", other, f"{shared} (3)"]
    assert values(drawn["z"]).shape == (3, 4)
    assert axis["tickvals"] == drawn["x"]
    assert axis["ticktext"] == [shared, shared, other, shared]
    assert [line["x0"] for line in figure["layout"]["shapes"]] == [0.5, 2.5]  # between the clusters' blocks


def marked(cells, by, sizes):
    """Give the cells marker peaks with a receipt: the column compared and the number of cells of each cluster."""
    cells.uns["scale_markers"] = pd.DataFrame({"cluster": ["0", "1", "2"], "peak": cells.var_names[[5, 3, 8]]})
    notes = {"clusters": {name: {"cells": size, "markers": 1} for name, size in sizes.items()}}
    receipt = {"stage": "markers", "options": {"cluster_by": by}, "notes": notes}
    cells.uns["scale"] = json.dumps([*json.loads(cells.uns["scale"]), receipt])
    return cells


def test_markers_of_another_grouping_with_the_same_names_are_not_drawn(analysed):
    sizes = analysed.obs["scale_cluster"].value_counts().to_dict()
    peaks = list(analysed.var_names[[5, 3, 8]])
    assert Page(report.page(marked(analysed.copy(), "scale_cluster", sizes))).data["markers"]["data"][0]["x"] == peaks
    page = Page(report.page(marked(analysed, "scale_cluster", {name: size + 1 for name, size in sizes.items()})))
    assert "uns['scale_markers'] belongs to other clusters than these: run scale markers again." in page.text
    assert page.data["markers"]["data"][0]["x"] != peaks


def test_no_cluster_is_drawn_over_the_others(analysed):
    ordered = analysed[np.argsort(analysed.obs["scale_cluster"].cat.codes, kind="stable")].copy()
    column = Page(report.page(ordered)).data["embedding"]["columns"][0]
    assert set(numbers(column["values"])[-30:]) == {0, 1, 2}


def test_equal_input_gives_an_equal_page(analysed):
    assert report.page(analysed) == report.page(analysed.copy())


def test_nothing_is_loaded_from_elsewhere(analysed):
    text = report.page(analysed)
    page = Page(text)
    for tag, attrs in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        for name in ("src", "srcset", "data", "action", "poster"):
            assert name not in attrs
        assert attrs.get("href", "#").startswith("#")
    policy = next(attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none'; ")
    assert not re.search(r"https?:", policy)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    own = page.scripts[-1]
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(", own)


@pytest.fixture
def hostile(analysed):
    """Names that would break out of the page wherever a file can hold one."""
    for column in ("scale_cluster", "cell_type", "batch"):
        values = analysed.obs[column].astype(str)
        analysed.obs[column] = pd.Categorical([f"{HOSTILE}{value}" for value in values])
    analysed.obs = analysed.obs.rename(columns={"cell_type": HOSTILE.replace("/", "|"), "n_counts": f"{HOSTILE[9:]}n"})
    analysed.obs_names = [f"{HOSTILE}{i}" for i in range(analysed.n_obs)]
    analysed.var_names = [f"{HOSTILE}{j}" for j in range(analysed.n_vars)]
    receipts = json.loads(analysed.uns["scale"])
    receipts[0]["stage"] = receipts[0]["version"] = HOSTILE
    receipts[1]["options"]["layer"] = receipts[1]["notes"][HOSTILE] = HOSTILE
    receipts[2]["notes"]["stopped"] = HOSTILE
    receipts[3]["options"]["reference"] = HOSTILE.replace("/", "|")
    analysed.uns["scale"] = json.dumps(receipts)
    return analysed


def test_hostile_names_stay_text(hostile):
    text = report.page(hostile, name=HOSTILE)
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert "img" not in tags
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert len(page.scripts) == 3
    assert html.escape(HOSTILE, quote=False) in text
    assert HOSTILE not in text
    assert f"{HOSTILE}0" in page.data["embedding"]["names"]  # the script escapes it where it is shown
    for figure in page.data:
        if figure != "embedding":
            assert "<img" not in json.dumps(page.data[figure])  # plotly's text is a kind of HTML
    for column in page.data["embedding"]["columns"]:
        assert "<img" not in str(column.get("names"))


@pytest.mark.parametrize("value", ["</script>", "<!--", "a&b", "\u2028", "\u2029", 'quote"', "ü"])
def test_json_can_stand_in_a_script(value):
    text = _json({"a": [value, 1.5, None, np.float32(2), np.arange(2)]})
    assert json.loads(text) == {"a": [value, 1.5, None, 2.0, [0, 1]]}
    assert not set(text) & set("<>&\u2028\u2029")


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ((keys.UMAP,), "obsm['X_umap'] is missing: run scale embed first"),
        ((keys.CLUSTER,), "obs['scale_cluster'] is missing: run scale cluster first"),
        ((keys.HISTORY,), "uns['scale_history'] is missing: run scale train first"),
        ((keys.N_PEAKS, keys.QC), "obs['n_peaks'] is missing; expected the output of `scale prepare`"),
        ((), "This was not measured: scale impute --validate hides open peaks"),
    ],
)
def test_what_is_not_there_yet_is_named_with_its_stage(analysed, slots, words):
    for slot in slots:
        slot.drop(analysed)
    assert words in Page(report.page(analysed)).text


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_a_page_in_the_middle_of_the_work(plant, stage):
    from scale_toolkit.stages.prepare import prepare
    from scale_toolkit.stages.train import train

    cells = prepare(plant(), min_peaks=5, min_cells=2)
    cells = train(cells, n_components=2, max_iter=5, n_threads=1) if stage == "train" else cells
    page = Page(report.page(cells))
    assert "run scale embed first" in page.text
    assert ("curve_loss" in page.data) == (stage == "train")


def test_a_file_of_another_program():
    with pytest.raises(errors.MissingSlotError, match="x holds nothing that SCALE made; expected the output of any stage; run"):
        report.page(anndata.AnnData(np.ones((3, 2))), name="x")


@pytest.mark.parametrize(("frip", "tss"), [("frip", "tss_enrichment"), ("FRIP", "TSSEnrichment"), ("pct_reads_in_peaks", "tsse")])
def test_figures_of_fragments_are_drawn_where_obs_has_them(analysed, frip, tss):
    assert "FRiP" not in Page(report.page(analysed)).text
    n = analysed.n_obs
    analysed.obs[frip] = np.linspace(0.2, 0.8, n)
    analysed.obs[tss] = np.r_[np.nan, np.linspace(2, 10, n - 1)]
    page = Page(report.page(analysed))
    assert f"{frip}, share of a cell's insertions that lie in peaks (FRiP): median 0.5, quartiles 0.35 and 0.65, in {n:,} cells." in page.text
    assert f"{tss}, TSS enrichment: median 6, quartiles 4 and 8, in {n - 1:,} cells." in page.text
    assert values(page.data["frip"]["data"][0]["y"]).sum() == n
    analysed.obs[frip] = "high"  # text, and nothing but missing values, is left out
    analysed.obs[tss] = np.nan
    assert not {"frip", "tss"} & set(Page(report.page(analysed)).data)


def test_labels(analysed):
    with pytest.raises(errors.InputError, match="obs has no column 'colour'; expected one of cell_type"):
        report.page(analysed, label="colour")
    analysed.obs["mine"] = pd.Categorical(["a", "b"] * (analysed.n_obs // 2) + ["a"] * (analysed.n_obs % 2))
    assert "mostly (mine)" in Page(report.page(analysed, label="mine")).text
    assert "mostly (cell_type)" in Page(report.page(analysed)).text
    receipts = json.loads(analysed.uns["scale"])
    receipts[-1]["options"]["reference"] = None
    analysed.uns["scale"] = json.dumps(receipts)
    analysed.obs = analysed.obs.rename(columns={"cell_type": "label"})
    assert "mostly (label)" in Page(report.page(analysed)).text
    del analysed.obs["label"]
    assert "name one with scale report --label COLUMN" in Page(report.page(analysed)).text


def test_clusters_are_not_compared_with_themselves(analysed):
    receipts = json.loads(analysed.uns["scale"])
    receipts[-1]["options"]["reference"] = "kmeans"  # what `cluster --method kmeans --reference kmeans` recorded
    analysed.uns["scale"] = json.dumps(receipts)
    assert "mostly (cell_type)" in Page(report.page(analysed)).text
    with pytest.raises(errors.InputError, match=r"obs\['kmeans'\] holds the clusters of obs\['scale_cluster'\] themselves"):
        report.page(analysed, label="kmeans")
    analysed.obs["kmeans_original"] = analysed.obs["cell_type"]  # what `cluster` kept before it wrote its own
    assert "mostly (kmeans_original)" in Page(report.page(analysed, label="kmeans")).text
    analysed.uns["scale_cluster_report"] = {"reference": "kmeans_original"}
    assert "mostly (kmeans_original)" in Page(report.page(analysed)).text


def test_imputation_proof(analysed):
    figures = {"auprc": 0.4, "auprc_error": 0.01, "auroc": 0.8, "sets": 900}
    analysed.uns["scale_validation"] = json.dumps(sort_keys=True, obj={
        "way": "trained without them", "hidden": 12345, "share": 0.1, "chance": {"auprc": 0.1, "auroc": 0.5},
        "matched": dict.fromkeys(("model", "frequency", "neighbours", "tfidf_svd"), figures),
        "calibration": {"predicted": [0.01, 0.1], "observed": [0.012, 0.09], "ratio": [1.2, 0.9], "error": [0.1, 0.1]},
        "peaks": {"all": 150, "trusted": 99}, "metacell": {"measured": 0.3, "imputed": 0.9, "cells": 100},
        "between_cells": {"column": "kind", "markers": 20, "neighbours": 30,
                          "auc": {"raw": 0.55, "neighbours": 0.83, "own": 0.72, "equal": 0.91}},
    })  # fmt: skip
    page = Page(report.page(analysed))
    assert "12,345 open peaks were hidden (10%); the model was trained without them. 99 of 150 peaks are trusted" in page.text
    assert values(page.data["recovery"]["data"][0]["y"]).tolist() == [0.4] * 4
    assert page.data["recovery"]["data"][0]["x"][0] == "model"  # the file has them by the alphabet
    assert "0.30 measured, 0.90 imputed" in page.text
    assert "20 marker peaks of each group of kind" in page.text
    assert "0.550 as measured, 0.830 averaged over 30 near cells, 0.720 imputed at each cell's own depth and 0.910" in page.text


def cut(n_cells, n_peaks=None):
    return lambda cells: cells[:n_cells, :n_peaks].copy()


def put(where, name, make):
    def change(cells):
        getattr(cells, where)[name] = make(cells)
        return cells

    return change


def each(cells):
    return pd.Categorical([str(i) for i in range(cells.n_obs)])


@pytest.mark.parametrize(
    "change",
    [
        cut(1), cut(2), cut(None, 1), lambda cells: cells[:40, :100],
        put("obs", "scale_cluster", lambda cells: pd.Categorical(["0"] * cells.n_obs)),
        put("obs", "scale_cluster", each),
        put("obs", "scale_cluster", lambda cells: np.arange(cells.n_obs) % 4),
        put("obs", "scale_cluster", lambda cells: pd.Categorical([None if i % 3 else "1" for i in range(cells.n_obs)])),
        put("obs", "scale_cluster", lambda cells: pd.Categorical([None] * cells.n_obs, categories=["a"])),
        put("obs", "cell_type", lambda cells: pd.Categorical([None] * cells.n_obs, categories=["a"])),
        put("obs", "batch", each),
        put("obs", "when", lambda cells: pd.to_datetime(["2020-01-01"] * cells.n_obs)),
        put("obs", "whole", lambda cells: pd.array([None, *range(1, cells.n_obs)], dtype="Int64")),
        put("obsm", "X_umap", lambda cells: np.full((cells.n_obs, 2), np.nan, np.float32)),
        put("uns", "scale_history", lambda cells: {"loss": np.array([1.0]), "held_out": np.array([np.nan] * 2)}),
        put("uns", "scale", lambda cells: "no JSON"),
        put("uns", "scale", lambda cells: json.dumps([{"stage": "train"}, {"stage": 5, "options": {}}, 7])),
        lambda cells: anndata.AnnData(cells.X * 0, obs=cells.obs, var=cells.var),
        lambda cells: anndata.AnnData(cells.X.toarray(), obs=cells.obs, var=cells.var),
    ],
)  # fmt: skip
def test_an_odd_file_still_makes_a_page(analysed, change):
    page = Page(report.page(change(analysed)))
    assert "What was run" in page.text
    assert {attrs["data-plot"] for _, attrs in page.elements if "data-plot" in attrs} == set(page.data) - {"embedding"}


def test_missing_and_odd_columns(analysed):
    analysed.obs["half"] = pd.Categorical(["a"] * 70 + [None] * (analysed.n_obs - 70))
    analysed.obs["nothing"] = np.nan
    analysed.obs["flag"] = np.arange(analysed.n_obs) < 9
    analysed.obs["barcode"] = [f"b{i}" for i in range(analysed.n_obs)]  # a name for each cell is no grouping
    drawn = Page(report.page(analysed)).data["embedding"]
    columns = {column["name"]: column for column in drawn["columns"]}
    assert columns["half"]["names"] == ["a", "no label"]
    assert columns["half"]["missing"] == 1
    np.testing.assert_array_equal(numbers(columns["half"]["values"]), analysed[drawn["names"]].obs["half"].isna())
    assert columns["flag"]["names"] == ["False", "True"]
    assert not {"nothing", "barcode"} & set(columns)


def test_long_names_that_begin_alike_stay_apart(analysed):
    long = [f"{'excitatory neurons of the cortex ' * 3}layer {i % 3}" for i in range(analysed.n_obs)]
    analysed.obs["cell_type"] = pd.Categorical(long)
    data = Page(report.page(analysed)).data
    axis = data["confusion"]["layout"]["yaxis"]
    assert set(axis["tickvals"]) == set(data["confusion"]["data"][0]["y"]) == set(long)
    assert len(set(axis["ticktext"])) == 3
    (column,) = (one for one in data["embedding"]["columns"] if one["name"] == "cell_type")
    for short in (*axis["ticktext"], *column["short"]):
        assert len(short) <= 26
        assert short.startswith("excitatory n")
        assert "layer" in short


def test_many_groups_share_a_colour(analysed):
    analysed.obs["fine"] = [f"g{i % 60}" for i in range(analysed.n_obs)]
    (column,) = (one for one in Page(report.page(analysed)).data["embedding"]["columns"] if one["name"] == "fine")
    assert len(column["names"]) == 41
    assert column["names"][-1] == "20 smaller ones"
    assert len(set(column["colors"])) == 41


def test_100_000_cells_are_less_than_15_mb():
    n, rng = 100_000, np.random.default_rng(0)
    code = rng.integers(0, 20, n)
    counts = sparse.csr_matrix((np.ones(3 * n, np.float32), rng.integers(0, 50, 3 * n), np.arange(0, 3 * n + 1, 3)), (n, 50))
    cells = anndata.AnnData(counts, obs=pd.DataFrame(index=[f"{'ACGT' * 4}-{i}" for i in range(n)]))
    keys.UMAP.set(cells, rng.normal(size=(n, 2)).astype(np.float32))
    keys.LATENT.set(cells, rng.normal(size=(n, 10)).astype(np.float32))
    keys.CLUSTER.set(cells, pd.Categorical(code.astype(str)))
    keys.POSTERIOR.set(cells, rng.dirichlet(np.ones(20), n).astype(np.float32))
    keys.N_PEAKS.set(cells, rng.integers(100, 9000, n))
    keys.N_CELLS.set(cells, rng.integers(1, n, 50))
    keys.BATCH.set(cells, pd.Categorical(rng.integers(0, 4, n).astype(str)))
    for number in range(20):
        cells.obs[f"score {number}"] = rng.random(n)
    text = report.page(cells, counts=lambda some: counts[some])
    assert 5e6 < len(text.encode()) < 15e6
    data = Page(text).data["embedding"]
    assert len(data["names"]) == len(numbers(data["x"])) == n
    assert {"scale_cluster", "batch", "n_peaks"} <= {column["name"] for column in data["columns"]}


def test_of_more_cells_a_random_choice_is_drawn(analysed, monkeypatch):
    from scale_toolkit.report import figures

    monkeypatch.setattr(figures, "MOST_DRAWN", 50)
    page = Page(report.page(analysed))
    assert f"50 of {analysed.n_obs} cells are drawn, chosen at random" in page.text
    drawn = page.data["embedding"]
    here = analysed[drawn["names"]]
    np.testing.assert_array_equal(numbers(drawn["x"]), here.obsm["X_umap"][:, 0])
    codes = numbers(drawn["columns"][0]["values"])
    np.testing.assert_array_equal(np.array(drawn["columns"][0]["names"])[codes], here.obs["scale_cluster"].astype(str))
