"""How ``train`` uses a GPU: its choice, memory and precision, and the errors if it fails."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scale_toolkit.errors import DeviceError

if TYPE_CHECKING:
    import torch

    from scale_toolkit.config import TrainConfig
    from scale_toolkit.model.cells import OnGpu

log = logging.getLogger("scale_toolkit")

#: Words of a CUDA error if another process holds the GPU.
_BUSY = ("busy or unavailable", "all CUDA-capable devices are busy")


def find_device(name: str) -> torch.device:
    """Return the torch device of this name; ``auto`` is a CUDA GPU if there is one, else the
    CPU.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(
            f"device is {name!r}", "auto, cpu, cuda, cuda:N or mps", "use --device auto"
        )
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }[device.type]
    if not available:
        raise DeviceError(
            f"no {device.type.upper()} device is available, and {name} was requested",
            "a GPU that torch can use",
            "use --device auto, which takes the CPU without a GPU",
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"{name} was requested and there are {torch.cuda.device_count()} GPUs",
            "a number below that",
            "use --device cuda",
        )
    return device


def gpu_settings(settings: TrainConfig) -> OnGpu:
    """Return how a GPU is used, from the options of ``train``."""
    from scale_toolkit.model.cells import OnGpu

    memory = None if settings.gpu_memory is None else int(settings.gpu_memory * 1e9)
    return OnGpu(memory, settings.deterministic)


@contextmanager
def used(device: torch.device, settings: TrainConfig) -> Iterator[None]:
    """Set up torch for `settings` while the device is used, and turn its failures into errors of
    one line.

    Raises
    ------
    DeviceError
        The GPU has too little memory, is held by another process, or fails.
    """
    if device.type == "cuda":
        with _set_up(settings), _reported(device):
            log.info("training on %s: %s", device, _description(device))
            yield
    else:
        yield


@contextmanager
def _set_up(settings: TrainConfig) -> Iterator[None]:
    """Set torch's precision and determinism, and restore the previous settings."""
    import torch

    previous = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    # TensorFloat-32 rounds the factors of dense products to 10 bits: less than sampling the peaks
    # does
    torch.set_float32_matmul_precision("high" if settings.precision == "auto" else "highest")
    if settings.deterministic:
        # cuBLAS reads it at its first use, and is deterministic only with a fixed workspace
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # imports torch's compiler, seconds: only if it is needed
        torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous[0])
        if settings.deterministic:
            torch.use_deterministic_algorithms(previous[1])


@contextmanager
def _reported(device: torch.device) -> Iterator[None]:
    """Turn a failure of the GPU into a `DeviceError` of one line."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise DeviceError(
            f"{device} ran out of memory ({_memory(device)})",
            "a GPU with more memory free",
            "lower --gpu-memory or --batch-size, or use --device cpu; a --checkpoint that was "
            "asked for is kept",
        ) from None
    except RuntimeError as error:
        first_line = str(error).partition("\n")[0].removesuffix(".")
        if "CUDA" not in first_line:
            raise
        if any(words in first_line for words in _BUSY):
            raise DeviceError(
                f"{device} is held by another process ({first_line})",
                "a GPU that is free",
                "wait for it, or name another",
            ) from None
        raise DeviceError(
            f"{device} failed ({first_line})",
            "a GPU that stays available",
            "run the same command again: with --checkpoint it goes on after the last checkpoint",
        ) from None


def _description(device: torch.device) -> str:
    """Name and memory of a GPU."""
    import torch

    if not torch.cuda.is_available():
        return "no CUDA"
    return f"{torch.cuda.get_device_name(device)}, {_memory(device)}"


def _memory(device: torch.device) -> str:
    """Free and total memory of a GPU, and what this process holds of it."""
    import torch

    try:
        free, total = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device)
    except (RuntimeError, AssertionError):
        return "its memory cannot be read"
    return f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free, {held / 1e9:.1f} GB held by this job"
