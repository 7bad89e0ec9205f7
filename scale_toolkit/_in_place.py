"""Run a stage in place on an AnnData, as scanpy's functions do; for `tl` and `pp`."""

from __future__ import annotations

import inspect
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from scale_toolkit.validation import Config

Function = TypeVar("Function", bound="Callable[..., Any]")


def run(
    stage: str, adata: AnnData, *, copy: bool, name: str | None = None, **keywords: Any
) -> AnnData | None:
    """Call a stage and write its result into `adata`, or with `copy` return it and leave `adata`
    unchanged.

    Parameters
    ----------
    stage
        The stage's module.
    adata
        The cells; a view becomes an AnnData of its own, as with scanpy.
    copy
        Work on a copy.
    name
        The function of the module, if it has another name.
    **keywords
        Options and inputs of the stage.
    """
    function: Callable[..., AnnData] = getattr(
        import_module(f"scale_toolkit.stages.{stage}"), name or stage
    )
    result = function(adata.copy() if copy else adata, **keywords)
    if copy:
        return result
    if result is not adata:
        # a stage that keeps some of the cells or peaks returns a new AnnData
        adata._init_as_actual(result)
    return None


def with_options(config: type[Config]) -> Callable[[Function], Function]:
    """Replace ``**options`` in a function's signature by a config's fields with their defaults."""

    def show(function: Function) -> Function:
        own_parameters = list(inspect.signature(function).parameters.values())
        options = [
            inspect.Parameter(
                spec.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=spec.default,
                annotation=spec.type,
            )
            for spec in fields(config)
        ]
        parameters = [p for p in own_parameters if p.kind is not p.VAR_KEYWORD] + options
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return function

    return show
