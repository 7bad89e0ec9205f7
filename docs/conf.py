"""The site: ``python -m sphinx -W -b html docs docs/_build``. Nothing is fetched while it is
built.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "scale_toolkit"
author = "the scale_toolkit developers"
release = version = installed_version("scale-toolkit")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "scale_toolkit"
html_static_path: list[str] = []

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# a wrong link is an error: the build runs with -W
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings describe types and shapes
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "code"

#: Pages that are made while the site is built, from the notebook, keys.py and files outside docs/.
GENERATED = "pages"
#: Links as they are written for a reader of the repository -> page of the site.
LINKS = {
    "../benchmarks/RESULTS.md": "pages/benchmarks.md",
    "../CHANGELOG.md": "pages/changelog.md",
    "../README.md#what-it-does": "pages/slots.md",
    "tutorial.ipynb": "pages/tutorial.md",
}


def notebook_as_markdown(notebook: dict[str, Any], images: Path) -> str:
    """Return a notebook with its stored outputs as MyST Markdown; figures are written to
    `images`.
    """
    parts = []
    for cell_number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output_number, output in enumerate(cell["outputs"]):
            data = output.get("data", {})
            if "image/png" in data:
                file = images / f"tutorial-{cell_number}-{output_number}.png"
                file.write_bytes(base64.b64decode("".join(data["image/png"])))
                parts.append(f"![Figure of the step above]({file.name})")
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def slots_page() -> str:
    """Return the page of all slots, from keys.py."""
    from scale_toolkit import keys

    rows = [
        f"| `{slot}` | `{slot.stage}` | {slot.shape} | {slot.dtype} | {slot.what} |"
        for slot in keys.all_slots()
    ]
    return "\n".join(
        [
            "# Slots",
            "",
            "What the stages write to an AnnData. The same names are in every file that passes "
            "between the stages.",
            "",
            "| slot | written by | shape | type | content |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def write_generated_pages(app: Sphinx) -> None:
    """Write the tutorial, the slots and the pages from outside docs/ before the sources are
    read.
    """
    folder = Path(app.srcdir) / GENERATED
    folder.mkdir(exist_ok=True)
    notebook = json.loads((Path(app.srcdir) / "tutorial.ipynb").read_text(encoding="utf-8"))
    pages = {
        "tutorial.md": notebook_as_markdown(notebook, folder),
        "slots.md": slots_page(),
        "changelog.md": (ROOT / "CHANGELOG.md")
        .read_text(encoding="utf-8")
        .replace("](docs/", "]("),
        "benchmarks.md": (ROOT / "benchmarks" / "RESULTS.md")
        .read_text(encoding="utf-8")
        .replace("](../docs/", "]("),
    }
    for name, text in pages.items():
        page = folder / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def redirect_links(app: Sphinx, docname: str, source: list[str]) -> None:
    """Point links that leave docs/, and links of generated pages, to pages of the site."""
    for target, page in LINKS.items():
        source[0] = source[0].replace(f"]({target}", f"]({page}")
    if docname.startswith(f"{GENERATED}/"):  # written as if they lay in docs/
        source[0] = re.sub(r"\]\((?!\w+:|#|tutorial-)", "](../", source[0])


def setup(app: Sphinx) -> None:
    """Register the two steps."""
    app.connect("builder-inited", write_generated_pages)
    app.connect("source-read", redirect_links)
