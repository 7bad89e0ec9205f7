"""A trained model as bytes and back: plain values and tensors only, readable with
``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import dataclasses
import io
import warnings
from typing import Any

import numpy as np
import torch

from scale_toolkit.core.batch_effects import BatchEffects
from scale_toolkit.core.weighting import Weighting
from scale_toolkit.model.network import Scale, Shape
from scale_toolkit.model.recipes import Trained
from scale_toolkit.model.snapshot import History

FORMAT = "scale_toolkit model 2"


class NotAModel(ValueError):
    """The bytes are not a model file of this package; the message says what they are."""


def dumps(trained: Trained, peaks: list[str], facts: dict[str, Any]) -> bytes:
    """Write a trained model with the names of its peaks and `facts` (plain values: options,
    version) as bytes.
    """
    content = {
        "format": FORMAT,
        "facts": facts,
        "peaks": list(peaks),
        "shape": {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in dataclasses.asdict(trained.model.shape).items()
        },
        "weights": {
            name: value.detach().cpu() for name, value in trained.model.state_dict().items()
        },
        "depth_bias": None if trained.depth_bias is None else torch.from_numpy(trained.depth_bias),
        "idf": None if trained.weighting is None else torch.from_numpy(trained.weighting.idf),
        "log_transform": trained.log_transform,
        "sampled": trained.sampled,
    }
    if trained.effects is not None:
        content["batch_factors"] = torch.from_numpy(trained.effects.factors)
        content["batch_logits"] = torch.from_numpy(trained.effects.logits)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def contents(data: bytes) -> Any:
    """Return the content of a torch file of plain values and tensors. No code in the bytes is run.

    Raises
    ------
    NotAModel
        The bytes are not a torch file, are damaged, or contain code.
    """
    try:
        with warnings.catch_warnings():
            # torch warns about the pickle protocol; a damaged file raises anyway
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        # foreign or damaged bytes raise any kind of error in torch's reader
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise NotAModel("a torch file that holds code, which is not run") from error
        raise NotAModel("not a torch file, or damaged") from error


def loads(data: bytes) -> tuple[Trained, list[str], dict[str, Any]]:
    """Read what `dumps` wrote: the model, its peaks and the facts. No code in the bytes is ever
    run.

    Raises
    ------
    NotAModel
        The bytes are something else, or are damaged.
    """
    return model_of(contents(data))


def model_of(content: Any) -> tuple[Trained, list[str], dict[str, Any]]:
    """Return the model, its peaks and the facts from what `contents` returned; raises
    `NotAModel`.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise NotAModel("a torch file without scale_toolkit's model in it")
    try:
        shape: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content["shape"].items()
        }
        model = Scale(Shape(**shape))
        model.load_state_dict(content["weights"])
        weighting = None
        if content["idf"] is not None:
            weighting = Weighting(content["idf"].numpy())
        depth_bias = (
            None
            if content["depth_bias"] is None
            else content["depth_bias"].numpy().astype(np.float64)
        )
        trained = Trained(
            model, depth_bias, weighting, content["log_transform"], content["sampled"], History()
        )
        if "batch_factors" in content:
            trained.effects = _batch_effects(content, model.shape.n_peaks)
        peaks, facts = list(content["peaks"]), dict(content["facts"])
        if len(peaks) != model.shape.n_peaks:
            raise NotAModel(
                f"a model of {model.shape.n_peaks} peaks with the names of {len(peaks)}"
            )
    except NotAModel:
        raise
    except Exception as error:
        raise NotAModel(
            "a model file that lacks parts, or whose parts do not fit together"
        ) from error
    return trained, peaks, facts


def _batch_effects(content: dict[str, Any], n_peaks: int) -> BatchEffects:
    """Return the effects of a model's batches, without cells."""
    factors, logits = (content[f"batch_{name}"].numpy() for name in ("factors", "logits"))
    if factors.shape != logits.shape or factors.shape[1:] != (n_peaks,):
        raise NotAModel(f"a model of {n_peaks} peaks with batches of {factors.shape[1:]} peaks")
    return BatchEffects(np.empty(0, np.int32), factors, logits)
