"""The tutorial runs for a newcomer, on cells that it simulates; its outputs are small and free of machine paths."""

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


def test_every_cell_runs_in_order(tmp_path):
    """Run all code cells in one namespace of a fresh process, as a notebook does; then check what they computed."""
    cells = "\n\n".join(text_of(cell["source"]) for cell in CODE)
    checks = (
        "assert cells.obs['scale_cluster'].nunique() == 6\n"
        "assert cells.obs['cell_type'].nunique() == 6, hits\n"
        "assert correct > 0.8, correct\n"
        "assert np.abs(correlations).max() < 0.6, correlations\n"
        "assert cells.obs['imputed'].between(0, 1).all()\n"
        "is_monocyte = cells.obs['planted'] == 'monocyte'\n"
        "program = scale.simulate(n_cells=800, n_peaks=8000, n_clusters=6, open_peaks=600, seed=3).var['program']\n"
        "kept = cells.var_names[program[cells.var_names] == 'type5']\n"
        "markers_open = np.asarray(imputed[:, kept]).mean(axis=1)\n"
        "assert markers_open[is_monocyte].mean() > 1.4 * markers_open[~is_monocyte].mean()\n"
        "assert len(latent) == len(new) and model.is_trained\n"
    )
    script = tmp_path / "tutorial.py"
    script.write_text(f"{cells}\n\n{checks}", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"MPLBACKEND": "agg"},
    )  # fmt: skip
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
