"""Run ``docs/tutorial.ipynb`` and keep its outputs: ``python docs/run_tutorial.py``.

Needs ``nbclient``, ``ipykernel`` and ``ipywidgets`` (the dependency group ``docs``).
"""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat

PAGE = Path(__file__).with_name("tutorial.ipynb")

if __name__ == "__main__":
    notebook = nbformat.read(PAGE, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": PAGE.parent}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # when each cell ran, which differs from run to run
    nbformat.write(notebook, PAGE)
