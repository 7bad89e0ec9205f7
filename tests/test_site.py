"""The site builds offline without a warning, and every internal link and anchor of it leads somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

if importlib.util.find_spec("sphinx") is None and not os.environ.get("CI"):
    pytest.skip("sphinx is not installed here; the locked test environment has it", allow_module_level=True)


class Page(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors.update(attributes[name] for name in ("id", "name") if attributes.get(name))
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    # no proxy answers at this address: a build that fetches something fails
    blocked = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", DOCS, folder / "html"],
        capture_output=True, text=True, check=False, env=os.environ | blocked,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "html"


def test_every_internal_link_leads_somewhere(site):
    pages = {file: Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}
    broken = []
    for file, page in pages.items():
        for link in page.links:
            target = urlsplit(link)
            if target.scheme or target.netloc or link.startswith("data:"):
                continue
            path = (file.parent / unquote(target.path)).resolve() if target.path else file
            path = path / "index.html" if path.is_dir() else path
            anchored = not target.fragment or path not in pages or unquote(target.fragment) in pages[path].anchors
            if not path.exists() or not anchored:
                broken.append(f"{file.relative_to(site)}: {link}")
    assert broken == []


def test_the_pages_that_a_user_looks_for_are_there(site):
    for name in ("start", "pages/tutorial", "install", "guide/train", "api", "pages/slots", "commands", "errors"):
        assert (site / f"{name}.html").exists(), name
    reference = (site / "api.html").read_text(encoding="utf-8")
    for name in ("stages.train.train", "stages.cluster.cluster", "api.SCALE", "get.top_markers", "plot.embedding"):
        assert f'id="scale_toolkit.{name}"' in reference, name
    slots = (site / "pages/slots.html").read_text(encoding="utf-8")
    assert "X_scale" in slots
    assert len(re.findall(r"<img[^>]*tutorial-", (site / "pages/tutorial.html").read_text(encoding="utf-8"))) >= 5


@pytest.mark.parametrize("page", sorted((DOCS / "guide").glob("*.md")), ids=lambda path: path.stem)
def test_the_guide_names_options_that_exist(page):
    import typer

    from scale_toolkit.cli.app import app

    commands = typer.main.get_command(app).commands
    # a page about several commands may name the options of each
    described = [commands[page.stem]] if page.stem in commands else list(commands.values())
    known = {name for command in described for parameter in command.params for name in parameter.opts}
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`(--?[a-z][a-z-]*)", text))
    assert named <= known, named - known
    assert f"`scale {page.stem} " in text or (page.stem not in commands and "`scale " in text)
