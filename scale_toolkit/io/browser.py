"""One file that opens the bigWig files of all groups in a genome browser, on one scale.

- A track hub of the UCSC genome browser in a single file (``useOneFile``): Raney et al. 2014,
  Bioinformatics 30:1003; settings as in UCSC's Hub Track Database Definition (``bigWig``,
  ``compositeTrack``, ``autoScale group``).
- A session of IGV (Robinson et al. 2011, Nature Biotechnology 29:24), version 8, which desktop IGV
  and igv.js read: a track belongs to the resource of its ``id``, and tracks of one
  ``autoscaleGroup`` share their range.

Both name the files relative to themselves, so that the folder can be moved or served as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree

from scale_toolkit.errors import UsageError
from scale_toolkit.io import files
from scale_toolkit.io.groups import plain

HUB = "hub.txt"
#: UCSC's limits of the two labels of a track, in characters.
_SHORT, _LONG = 17, 80


class Signal(NamedTuple):
    """A group of cells as a browser shows it.

    Attributes
    ----------
    name
        Of the group.
    file
        Its bigWig file, in the folder of the sessions.
    color
        Red, green and blue, 0 to 1.
    """

    name: str
    file: str
    color: tuple[float, float, float]

    @property
    def rgb(self) -> str:
        """The colour as browsers read it: ``0,114,178``."""
        return ",".join(str(round(255 * value)) for value in self.color)


def check_assembly(name: str) -> None:
    """Raise `UsageError` for what cannot be the name of a genome assembly."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]*", name):
        raise UsageError(f"--assembly is {name!r}", "the name of a genome at UCSC or IGV, as hg38")


def write_sessions(
    folder: Path, column: str, signals: Sequence[Signal], highest: float, assembly: str
) -> list[Path]:
    """Write ``hub.txt`` and ``COLUMN.igv.xml`` beside the bigWig files.

    Parameters
    ----------
    folder
        Of the bigWig files; both files are written completely or not at all.
    column
        The column of obs that names the groups.
    signals
        The groups in the order of the figures.
    highest
        Upper end of the common range at the beginning; the browsers then fit it to what is shown.
    assembly
        Name of the genome, as both browsers call it: hg38, mm10.

    Returns
    -------
    The files written.
    """
    contents = {
        HUB: _hub(column, signals, highest, assembly),
        f"{plain(column)}.igv.xml": _igv(signals, highest, assembly),
    }
    for name, text in contents.items():
        files.write_bytes(folder / name, text.encode())
    return [folder / name for name in contents]


def _hub(column: str, signals: Sequence[Signal], highest: float, assembly: str) -> str:
    """Return the track hub: a stanza each for hub, genome, the composite and every group."""
    kind = f"bigWig 0 {highest:.6g}"
    scale = {
        "type": kind,
        "visibility": "full",
        "autoScale": "group",
        "viewLimits": f"0:{highest:.6g}",
        "alwaysZero": "on",
        "maxHeightPixels": "128:48:8",
    }
    parent = _identifier(column)
    stanzas: list[Mapping[str, str]] = [
        {
            "hub": parent,
            "shortLabel": _label(column, _SHORT),
            "longLabel": _label(f"Accessibility by {column}, at equal depth", _LONG),
            "useOneFile": "on",
        },
        {"genome": assembly},
        {
            "track": parent,
            "compositeTrack": "on",
            "shortLabel": _label(column, _SHORT),
            "longLabel": _label(f"Mean imputed accessibility by {column}", _LONG),
            **scale,
        },
    ]
    for number, signal in enumerate(signals, 1):
        stanzas.append(
            {
                "track": f"{parent}_{number}",
                "parent": f"{parent} on",
                "bigDataUrl": quote(signal.file),
                "shortLabel": _label(signal.name, _SHORT),
                "longLabel": _label(f"{column} {signal.name}", _LONG),
                "color": signal.rgb,
                "priority": str(number),
                **scale,
            }
        )
    texts = ["\n".join(f"{key} {value}" for key, value in stanza.items()) for stanza in stanzas]
    return "\n\n".join(texts) + "\n"


def _igv(signals: Sequence[Signal], highest: float, assembly: str) -> str:
    """Return the session of IGV."""
    session = ElementTree.Element(
        "Session", genome=assembly, locus="All", nextAutoscaleGroup="2", version="8"
    )
    resources = ElementTree.SubElement(session, "Resources")
    panel = ElementTree.SubElement(session, "Panel", name="DataPanel")
    for signal in signals:
        ElementTree.SubElement(resources, "Resource", path=signal.file, type="bigwig")
        track = ElementTree.SubElement(
            panel,
            "Track",
            id=signal.file,
            name=signal.name,
            attributeKey=signal.name,
            color=signal.rgb,
            autoScale="false",
            autoscaleGroup="1",
            renderer="BAR_CHART",
            visible="true",
            windowFunction="mean",
        )
        ElementTree.SubElement(
            track,
            "DataRange",
            baseline="0.0",
            drawBaseline="true",
            flipAxis="false",
            minimum="0.0",
            maximum=f"{highest:.6g}",
            type="LINEAR",
        )
    ElementTree.indent(session)
    text: str = ElementTree.tostring(session, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n{text}\n'


def _identifier(text: str) -> str:
    """Return a name that UCSC takes for a track: letters, digits and _, a letter first."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text)
    return name if name[:1].isalpha() else f"by_{name}"


def _label(text: str, n_characters: int) -> str:
    """Return a label of one line, not longer than the browser shows."""
    line = " ".join(text.split()) or "-"
    return line if len(line) <= n_characters else line[: n_characters - 1] + "…"
