"""Checks of values that come from outside: callers, configuration files, command lines.

Each returns the value it accepted, as a plain Python value, and raises `InvalidInputError`
otherwise. A bool is never a number here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from typing import Any

from .errors import InvalidInputError

SHOWN = 80  # characters of a refused value that an error repeats


def show(value: Any) -> str:
    """`repr` of a refused value, short enough for a sentence."""
    try:
        text = repr(value)
    except ValueError:  # an integer of too many digits to print
        return f"a {type(value).__name__} too long to print"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """An integer from `low` to `high`, both included; `high` None: no upper end."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidInputError(f"{name}: expected an integer, got {show(value)}")
    number = operator.index(value)
    if number < low or (high is not None and number > high):
        ends = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidInputError(f"{name}: expected an integer {ends}, got {show(number)}")
    return number


def number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """A finite number from `low` to `high`, both included."""
    if isinstance(value, bool) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        raise InvalidInputError(f"{name}: expected a number, got {show(value)}")
    try:
        real = float(value)
    except (OverflowError, TypeError, ValueError):
        real = math.nan
    if not (math.isfinite(real) and low <= real <= high):
        ends = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
        raise InvalidInputError(f"{name}: expected a finite number {ends}, got {show(value)}")
    return real


def flag(name: str, value: Any) -> bool:
    """True or False, nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name}: expected True or False, got {show(value)}")
    return value


def text(name: str, value: Any) -> str:
    """A non-empty str without surrogates (what UTF-8 cannot hold)."""
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{name}: expected a non-empty string, got {show(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{name}: expected text that UTF-8 can hold, got {show(value[error.start])}"
        ) from None
    return value


def one_of(name: str, value: Any, known: Collection[str]) -> str:
    """One of the strings of `known`."""
    if not isinstance(value, str) or value not in known:
        raise InvalidInputError(f"{name}: expected one of {', '.join(known)}, got {show(value)}")
    return value
