"""Checkpoints of a training in a folder: arrays as safetensors, values as JSON, never a pickle."""

from __future__ import annotations

import json
import os
import time
import warnings
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.io import files

# Two, so that one remains if the last is damaged.
_KEPT = 2


class Checkpoints:
    """The last checkpoints in a folder.

    Each is two files, ``epoch-000012.safetensors`` and ``epoch-000012.json``; the second is written
    last and holds a digest of both, so a checkpoint is either complete or ignored.

    Parameters
    ----------
    folder
        Made if it is missing.
    minutes
        `due` this many minutes after the last one; 0: always.
    """

    def __init__(self, folder: str | os.PathLike[str], minutes: float) -> None:
        self.folder, self.minutes = Path(folder), minutes
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._last >= 60 * self.minutes

    def save(self, epoch: int, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Write one, and remove those before the last two."""
        from safetensors.numpy import save

        self.folder.mkdir(parents=True, exist_ok=True)
        data, text = save(arrays), json.dumps(facts, sort_keys=True)
        arrays_file, facts_file = self._files(epoch)
        files.write_bytes(arrays_file, data)
        files.write_bytes(
            facts_file, json.dumps({"digest": _digest(data, text), "facts": text}).encode()
        )
        for old in self._epochs()[:-_KEPT]:
            for file in reversed(self._files(old)):
                file.unlink(missing_ok=True)
        self._last = time.monotonic()

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Read the last complete one, or None; a damaged one is reported and passed over."""
        from safetensors.numpy import load

        for epoch in reversed(self._epochs()):
            arrays_file, facts_file = self._files(epoch)
            try:
                outer = json.loads(facts_file.read_bytes())
                data = arrays_file.read_bytes()
                if outer["digest"] != _digest(data, outer["facts"]):
                    raise ValueError("digest")
                return load(data), json.loads(outer["facts"])
            except PermissionError as error:
                raise InputError(
                    f"{facts_file} cannot be read ({error.strerror})", "a folder of your own", ""
                ) from None
            except Exception:
                # a damaged file raises any kind of error in its reader
                warnings.warn(
                    f"the checkpoint {facts_file.stem} in {self.folder} is damaged: passed over",
                    ScaleWarning,
                    stacklevel=2,
                )
        return None

    def _epochs(self) -> list[int]:
        names = [path.stem.removeprefix("epoch-") for path in self.folder.glob("epoch-*.json")]
        return sorted(int(name) for name in names if name.isdecimal())

    def _files(self, epoch: int) -> tuple[Path, Path]:
        stem = self.folder / f"epoch-{epoch:06d}"
        return stem.with_suffix(".safetensors"), stem.with_suffix(".json")


def _digest(data: bytes, text: str) -> str:
    return blake2b(data + text.encode(), digest_size=16).hexdigest()
