"""Write the README's table of stages from the registry: ``python docs/make_stages.py``.

A test fails if the two differ.
"""

from __future__ import annotations

from pathlib import Path

from scale_toolkit import keys
from scale_toolkit.registry import STAGES

PAGE = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- stages: python docs/make_stages.py -->\n", "<!-- end of stages -->\n"


def table() -> str:
    """Return the table: command, Python function, purpose, and the slots of the contract it
    writes.
    """
    lines = ["| command | in Python | what it does | writes |", "|---|---|---|---|"]
    for entry in STAGES.values():
        namespace = f"{entry.namespace}." if entry.namespace else ""
        slots = [
            slot for slot in (keys.X, *keys.all_slots()) if slot.stage.split()[0] == entry.name
        ]
        written = ", ".join(f"`{slot}`" for slot in slots)
        function = f"scale.{namespace}{entry.module}"
        lines.append(f"| `scale {entry.name}` | `{function}` | {entry.purpose} | {written} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """Return the README with the table in its place."""
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:start] + table() + text[end:]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
