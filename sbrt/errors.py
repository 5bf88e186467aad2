"""The two errors a caller sees. Each is one sentence: the thing, what was expected, what was
given."""

from __future__ import annotations

from ._core import EngineError, InvalidInputError

__all__ = ["EngineError", "InvalidInputError", "not_built"]


def not_built(thing: str) -> InvalidInputError:
    """The error for a planned feature that this version does not have."""
    return InvalidInputError(f"{thing}: not built yet")
