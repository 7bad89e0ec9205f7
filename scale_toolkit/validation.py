"""Options that are checked when they are set: `option` declares a field, `Config` validates it.

Written by hand because ``scale --help`` imports it: pydantic's dataclasses cost 0.2 s of CPU, as
much again as the whole command line.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, NamedTuple, cast

from scale_toolkit.errors import OptionError

#: Help texts of options that several stages share.
SEED = "Seed of every random choice: same seed, machine and thread count give identical results."
THREADS = "Threads for every library underneath; 0 uses all cores available to the job."


def option(
    default: Any,
    help: str,
    *,
    flags: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    metavar: str | None = None,
) -> Any:
    """Declare a field: its default, help text, extra flags (``-k``), inclusive range or choices."""
    metadata = {
        "help": help,
        "flags": flags,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "metavar": metavar,
    }
    return field(default=default, metadata=metadata)


class FieldType(NamedTuple):
    """What a field may hold.

    Attributes
    ----------
    item
        bool, int, float or str: the value's type, or that of a tuple's items.
    many
        Whether it is a tuple of any length.
    optional
        Whether it may be None.
    """

    item: type
    many: bool
    optional: bool


def field_types(config: type[Config]) -> dict[str, FieldType]:
    """Return the type of each field of a config, by name."""
    # a class is hashable, but mypy compares with the `__hash__` of its instances
    return _field_types(cast(Any, config))


@functools.cache
def _field_types(config: type[Config]) -> dict[str, FieldType]:
    hints = typing.get_type_hints(config)
    return {spec.name: _field_type(hints[spec.name]) for spec in dataclasses.fields(config)}


def _field_type(hint: Any) -> FieldType:
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        arguments = typing.get_args(hint)
        optional = type(None) in arguments
        (hint,) = (argument for argument in arguments if argument is not type(None))
    many = typing.get_origin(hint) is tuple
    item = typing.get_args(hint)[0] if many else hint
    if item not in (bool, int, float, str):
        raise TypeError(f"a field cannot be {hint}")
    return FieldType(item, many, optional)


@dataclass(frozen=True)
class Config:
    """Base of the stages' options: checks every field against its declared type, range and choices.

    NumPy numbers, booleans and strings become Python's own, and 4.0 becomes 4 in a field of
    integers, so that a config can always be written to a receipt.
    """

    def __post_init__(self) -> None:
        kinds = field_types(type(self))
        for spec in dataclasses.fields(self):
            value = _checked(spec, kinds[spec.name], getattr(self, spec.name))
            object.__setattr__(self, spec.name, value)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as plain values, for receipts and model files (tuples become
        lists).
        """
        values = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


def _checked(spec: dataclasses.Field[Any], kind: FieldType, value: Any) -> Any:
    """Return a field's value in its declared type, or raise `OptionError`."""
    if value is None:
        if kind.optional:
            return None
        raise OptionError(f"{spec.name} is None", "a value", "leave it out for the default")
    if not kind.many:
        return _checked_item(spec, kind.item, value)
    single = (
        isinstance(value, str) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) == 0
    )
    items = (value,) if single else tuple(value)
    return tuple(_checked_item(spec, kind.item, item) for item in items)


def _checked_item(spec: dataclasses.Field[Any], item: type, value: Any) -> Any:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        # a NumPy scalar
        value = value.item()
    if item is bool:
        if not isinstance(value, bool):
            raise OptionError(f"{spec.name} is {value!r}", "True or False")
    elif item is str:
        if not isinstance(value, str):
            raise OptionError(f"{spec.name} is {value!r}", "a string")
    else:
        value = _number(spec, item, value)
    choices = spec.metadata["choices"]
    if choices and value not in choices:
        raise OptionError(f"{spec.name} is {value!r}", "one of " + ", ".join(choices))
    return value


def _number(spec: dataclasses.Field[Any], item: type, value: Any) -> int | float:
    expected = "an integer" if item is int else "a number"
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise OptionError(f"{spec.name} is {value!r}", expected)
    if isinstance(value, Integral):
        number: int | float = int(value)
    elif math.isfinite(value):
        number = float(value)
    else:
        raise OptionError(f"{spec.name} is {value}", expected)
    if item is int:
        if int(number) != number:
            raise OptionError(f"{spec.name} is {value}", expected)
        number = int(number)
    low, high = spec.metadata["minimum"], spec.metadata["maximum"]
    if low is not None and number < low:
        raise OptionError(f"{spec.name} is {number:g}", f"{low:g} or more")
    if high is not None and number > high:
        raise OptionError(f"{spec.name} is {number:g}", f"{high:g} or less")
    return number
