"""One place in an AnnData, by attribute and name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scale_toolkit.errors import MissingSlotError


@dataclass(frozen=True)
class Slot:
    """One place in an AnnData: ``adata.<where>[name]``; without `where`, the attribute
    ``adata.<name>``.
    """

    where: str
    name: str
    stage: str
    shape: str
    dtype: str
    what: str

    @property
    def path(self) -> str:
        """The element's path in an h5ad file, for example ``obsm/X_scale``."""
        return f"{self.where}/{self.name}" if self.where else self.name

    def __str__(self) -> str:
        return f"{self.where}[{self.name!r}]" if self.where else self.name

    def found_in(self, adata: Any) -> bool:
        """Whether `adata` has the slot."""
        if not self.where:
            return getattr(adata, self.name, None) is not None
        return self.name in getattr(adata, self.where)

    def get(self, adata: Any) -> Any:
        """Return the slot's value, or raise `MissingSlotError` naming the stage that writes it."""
        if not self.found_in(adata):
            raise MissingSlotError(
                f"{self} is missing",
                f"the output of `scale {self.stage}`",
                f"run `scale {self.stage}` on this file first",
            )
        return (
            getattr(adata, self.name) if not self.where else getattr(adata, self.where)[self.name]
        )

    def set(self, adata: Any, value: Any) -> None:
        """Write the slot."""
        if not self.where:
            setattr(adata, self.name, value)
        else:
            getattr(adata, self.where)[self.name] = value

    def drop(self, adata: Any) -> None:
        """Remove the slot where it is present."""
        if self.found_in(adata):
            del getattr(adata, self.where)[self.name]


def column(where: str, name: str) -> Slot:
    """Return the slot of a column or layer that the user names, for example
    ``obs['cell_type']``.
    """
    return Slot(where, name, "", "", "", "named by the user")
