"""The tutorial runs as it stands, on the real data; its outputs are small and of this project's making."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.ipynb"
NOTEBOOK = json.loads(PAGE.read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def text_of(part) -> str:
    return part if isinstance(part, str) else "".join(part)


def test_every_cell_runs_in_order(data_path, tmp_path):
    """All code cells in one namespace and a fresh process, as a notebook does it; then what they found is judged."""
    cells = "\n\n".join(text_of(cell["source"]) for cell in CODE)
    checks = (
        "assert cells.obs['scale_cluster'].nunique() == 8\n"
        "assert report['ari'] > 0.5 and report['nmi'] > 0.6, report\n"
        "assert np.abs(r).max() < 0.6, r\n"
        "assert cells.obs['imputed'].between(0, 1).all()\n"
        "counted, by = cells.obs['counted'], cells.obs['scale_cluster'] == group\n"
        "assert cells.obs['imputed'][by].mean() > 2 * cells.obs['imputed'][~by].mean()\n"
        "assert z.shape == (len(new), 10) and model.is_trained\n"
    )
    script = tmp_path / "tutorial.py"
    script.write_text(f"{cells}\n\n{checks}", encoding="utf-8")
    folder = data_path("forebrain.h5ad").parent.resolve()
    environment = os.environ | {"SCALE_TEST_DATA": str(folder), "MPLBACKEND": "agg"}
    result = subprocess.run(
        [sys.executable, script], cwd=PAGE.parent, capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr


def test_it_is_committed_with_its_outputs():
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert all(cell["execution_count"] for cell in CODE)
    images = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) >= 5
    assert sum(len(text_of(image)) * 3 / 4 for image in images) < 500_000
    text = PAGE.read_text(encoding="utf-8")
    assert str(Path.home()) not in text
    assert "site-packages" not in text


def test_its_links_lead_somewhere():
    for cell in NOTEBOOK["cells"]:
        for part in text_of(cell["source"]).split("](")[1:]:
            target = part.split(")")[0]
            assert target.startswith("https://") or (PAGE.parent / target).is_file(), target
