"""The two errors that a caller sees. A message is one sentence. The sentence names the thing at
fault, what was expected, and what was given."""

from __future__ import annotations

from ._core import EngineError, InvalidInputError

__all__ = ["EngineError", "InvalidInputError", "not_built"]


def not_built(thing: str) -> InvalidInputError:
    """Return the error for a planned feature that this version does not have."""
    return InvalidInputError(f"{thing}: not built yet")
