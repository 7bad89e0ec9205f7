"""The page in a real browser: every plot is drawn, nothing is asked of any network, and names from the file stay text."""

from __future__ import annotations

import html
import json
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from scale_toolkit import keys, report

HOSTILE = "</script><img src=x onerror=alert(1)>"


class Drawn(HTMLParser):
    """What the browser made of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.html: dict[str, str | None] = {}
        self.plots: dict[str, list[str]] = {}
        self.urls: list[str] = []
        self.texts: list[str] = []
        self._plot, self._depth = "", 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.urls += [
            value for name, value in attrs if name in ("src", "href", "xlink:href") and value
        ]
        if tag == "html":
            self.html = attributes
        if tag == "div" and ("data-plot" in attributes or "data-embedding" in attributes):
            self._plot, self._depth = (
                attributes.get("data-plot") or f"cells {attributes['data-embedding']}",
                0,
            )
            self.plots[self._plot] = []
        if self._plot:
            self._depth += tag == "div"
            self.plots[self._plot].append(f"{tag}.{attributes.get('class', '')}")

    def handle_endtag(self, tag):
        self._depth -= bool(self._plot) and tag == "div"
        if self._depth <= 0:
            self._plot = ""

    def handle_data(self, data):
        if self.tags[-1:] != ["script"]:
            self.texts.append(data)


@pytest.fixture
def browse(chromium, tmp_path):
    """Return ``browse(page)``: what Chromium made of it, and every address it asked for."""

    def look(text: str, width: int = 1200, frame: int | None = None) -> tuple[Drawn, list[str]]:
        (tmp_path / "report.html").write_text(text, encoding="utf-8")
        start = tmp_path / "report.html"
        if frame is not None:
            start = tmp_path / "frame.html"
            start.write_text(
                "<script>addEventListener('message', e => document.documentElement.dataset.wide = e.data)</script>"
                f'<iframe src="report.html" style="width:{frame}px;height:1800px;border:0"></iframe>'
            )
        log = tmp_path / "net.json"
        words = [
            chromium, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", f"--window-size={width},2000",
            "--virtual-time-budget=20000", "--dump-dom", start.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        said = log.read_text()
        events = json.loads(
            said if said.rstrip().endswith("}") else said.rstrip().rstrip(",") + "]}"
        )["events"]
        # the browser asks its maker for the time and the like on its own account: those requests have no page behind them
        jobs = [event["params"] for event in events if "initiator" in event.get("params", {})]
        asked = {job["url"] for job in jobs if job["initiator"] != "not an origin"}
        return Drawn(done.stdout), sorted(
            url for url in asked if url.startswith(("http", "ws", "ftp"))
        )

    return look


def test_every_plot_is_drawn_and_nothing_is_fetched(analysed, browse, plots):
    text = report.page(analysed)
    drawn, asked = browse(text)
    assert set(drawn.plots) == plots | {"cells 0", "cells 1"}
    assert drawn.html["data-drawn"] == str(len(drawn.plots))
    for name, inside in drawn.plots.items():
        assert any(part.startswith("svg.main-svg") for part in inside), name
    assert sum(part.startswith("path.point") for part in drawn.plots["cells 0"]) == analysed.n_obs
    assert drawn.plots["cells 1"].count("g.traces") == 3  # entries of the legend
    assert drawn.plots["sizes"].count("g.point") == 3
    assert asked == []
    assert [url for url in drawn.urls if not url.startswith(("#", "data:"))] == []


def test_colours_are_chosen_and_the_legend_toggles(analysed, browse):
    text = report.page(analysed)
    nonce = text.split("script-src 'nonce-")[1].split("'")[0]
    script = """
        const choice = document.querySelector('select[data-cells="1"]');
        choice.value = [...choice.options].findIndex(option => option.textContent.startsWith("depth"));
        choice.dispatchEvent(new Event("change"));
        const entry = document.querySelector('[data-embedding="0"] .legendtoggle');
        for (const kind of ["mousedown", "mouseup"]) entry.dispatchEvent(new MouseEvent(kind, {bubbles: true}));
    """
    wait = f"setTimeout(() => {{{script}}}, 2000)"
    drawn, _ = browse(text.replace("</body>", f'<script nonce="{nonce}">{wait}</script></body>'))
    sizes = analysed.obs["scale_cluster"].value_counts()
    left = sum(part.startswith("path.point") for part in drawn.plots["cells 0"])
    assert left in {analysed.n_obs - size for size in sizes}
    assert any("cbaxis" in part or "colorbar" in part for part in drawn.plots["cells 1"])
    assert "g.traces" not in drawn.plots["cells 1"]


def test_the_page_does_not_scroll_sideways_on_a_phone(analysed, browse):
    """In a frame of 375 pixels, since 500 are the narrowest window that Chromium opens."""
    analysed.obs["cell_type"] = pd.Categorical(
        [f"a_type_with_a_long_name_{value}" for value in analysed.obs["cell_type"]]
    )
    text = report.page(analysed)
    nonce = text.split("script-src 'nonce-")[1].split("'")[0]
    script = """setTimeout(() => {
        const page = document.documentElement;
        const outside = e => e.matches(".plot") || !e.closest(".scroll, .plot, svg");
        const wide = [...document.querySelectorAll("body *")].filter(outside)
            .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + "." + e.className);
        parent.postMessage(`${page.scrollWidth > innerWidth} ${innerWidth} ${wide.slice(0, 5)}`, "*");
    }, 3000)"""
    drawn, _ = browse(
        text.replace("</body>", f'<script nonce="{nonce}">{script}</script></body>'), width=500, frame=375
    )
    assert drawn.html["data-wide"] == "false 375 "


def test_a_page_that_fetches_is_caught(analysed, browse):
    """The check can fail: without the policy, a picture from elsewhere is seen in the browser's own log."""
    text = report.page(analysed)
    start = text.index('<meta http-equiv="Content-Security-Policy"')
    open_page = text[:start] + text[text.index(">", start) + 1 :].replace(
        "<main>", '<main><img src="http://example.org/x.png">'
    )
    assert browse(open_page)[1] == ["http://example.org/x.png"]
    assert (
        browse(text.replace("<main>", '<main><img src="http://example.org/x.png">'))[1] == []
    )  # the policy forbids it


def test_many_cells_are_drawn_by_webgl(plant, browse):
    n, rng = 20_000, np.random.default_rng(0)
    cells = plant(n_cells=n, n_peaks=40)
    keys.UMAP.set(cells, rng.normal(size=(n, 2)).astype(np.float32))
    keys.CLUSTER.set(cells, pd.Categorical(rng.integers(0, 12, n).astype(str)))
    keys.N_PEAKS.set(cells, rng.integers(100, 9000, n))
    keys.N_CELLS.set(cells, rng.integers(1, n, 40))
    drawn, _ = browse(report.page(cells))
    for place in ("cells 0", "cells 1"):
        assert any(part.startswith("canvas.gl-canvas") for part in drawn.plots[place])
        assert not any(part.startswith("path.point") for part in drawn.plots[place])
    assert drawn.html["data-drawn"] == str(len(drawn.plots))


def test_hostile_names_stay_text_in_the_browser(analysed, browse):
    for column in ("scale_cluster", "cell_type", "batch"):
        analysed.obs[column] = pd.Categorical(
            [f"{HOSTILE}{value}" for value in analysed.obs[column]]
        )
    analysed.obs_names = [f"{HOSTILE}{i}" for i in range(analysed.n_obs)]
    analysed.var_names = [f"{HOSTILE}{j}" for j in range(analysed.n_vars)]
    drawn, asked = browse(report.page(analysed, name=HOSTILE))
    assert "img" not in drawn.tags
    assert asked == []
    assert drawn.html["data-drawn"] == str(len(drawn.plots))
    assert HOSTILE in "".join(drawn.texts[:40])  # as text, in the title
    assert any(HOSTILE[:20] in html.unescape(text) for text in drawn.texts[40:])
