"""Reads those entries of a GGUF file's metadata that describe its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import check


@dataclass(frozen=True)
class Fields:
    """The metadata entries of one architecture in one file. Each entry is checked when it is
    read."""

    path: Path
    arch: str
    metadata: Mapping[str, Any]

    def where(self, key: str) -> str:
        """Return the names of the file and of an entry, for messages."""
        return f"{self.path}, {self.arch}.{key}"

    def get(self, key: str) -> Any:
        """Return the value of an entry, unchecked; None if there is no such entry."""
        return self.metadata.get(f"{self.arch}.{key}")

    def size(self, key: str, default: int | None = None) -> int:
        """Return the value of an entry, an integer of at least 1. Raises InvalidInputError."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        return check.integer(self.where(key), value, 1)

    def number(self, key: str, default: float) -> float:
        """Return the value of an entry, a finite number of at least 0. Raises InvalidInputError."""
        value = self.get(key)
        return default if value is None else check.number(self.where(key), value, 0)
