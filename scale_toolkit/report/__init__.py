"""One HTML page about an analysis, whole in itself: what was run, what was kept, what came out,
and what to look at twice.
"""

from __future__ import annotations

from scale_toolkit.report.build import NEEDED, page
from scale_toolkit.report.findings import Finding

__all__ = ["NEEDED", "Finding", "page"]
