"""Checks values that come from callers, configuration files and command lines.

Each check returns the accepted value as a plain Python value, and raises `InvalidInputError` for a
value that it refuses. No check accepts a bool as a number.
"""

from __future__ import annotations

import math
import operator
import os
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InvalidInputError

SHOWN = 80  # maximum characters of a refused value in an error message

_short = reprlib.Repr()  # reads only the beginning of a value, however large or deep the value is
_short.maxlevel = _short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = SHOWN // 4
_short.maxstring = _short.maxlong = _short.maxother = 2 * SHOWN


def show(value: Any) -> str:
    """Return `repr` of a refused value, short enough for an error message."""
    try:
        text = " ".join(_short.repr(value).split())
    except Exception:  # for example, an integer of too many digits, or a repr that fails
        return f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return an integer from `low` to `high`, both included. high None: no upper limit."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidInputError(f"{name}: expected an integer, got {show(value)}")
    try:
        number = operator.index(value)
    except TypeError:  # an array has `__index__`, but calling it raises
        raise InvalidInputError(f"{name}: expected an integer, got {show(value)}") from None
    if number < low or (high is not None and number > high):
        ends = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidInputError(f"{name}: expected an integer {ends}, got {show(number)}")
    return number


def number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """Return a finite number from `low` to `high`, both included, as a float."""
    if isinstance(value, bool) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        raise InvalidInputError(f"{name}: expected a number, got {show(value)}")
    try:
        real = float(value)
    except (ArithmeticError, TypeError, ValueError):
        real = math.nan
    if not (math.isfinite(real) and low <= real <= high):
        ends = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
        raise InvalidInputError(f"{name}: expected a finite number {ends}, got {show(value)}")
    return real


def flag(name: str, value: Any) -> bool:
    """Return True or False. Other values that Python counts as true or false are refused."""
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name}: expected True or False, got {show(value)}")
    return value


def text(name: str, value: Any) -> str:
    """Return a non-empty str. Surrogates are refused, because UTF-8 cannot encode them."""
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
    """Return `value` if it is one of the strings in `known`."""
    if not isinstance(value, str) or value not in known:
        raise InvalidInputError(f"{name}: expected one of {', '.join(known)}, got {show(value)}")
    return value


def items(name: str, value: Any, what: str) -> list[Any]:
    """Return the items of a list, a tuple or an array. Text and mappings are refused.

    what: the name of the expected items, for the error.
    """
    if not isinstance(value, (str, bytes, bytearray, Mapping)):
        try:
            return list(value)
        except TypeError:  # for example, an array without dimensions has no items
            pass
    raise InvalidInputError(f"{name}: expected {what}, got {show(value)}")


def is_file(path: Path) -> bool:
    """True if `path` is a file or a link to one; False for a path that the system refuses to
    read."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # for example, the name is too long, or links form a loop
        return False


def is_folder(path: Path) -> bool:
    """Like `is_file`, for a folder."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def open_binary(path: Path) -> BinaryIO:
    """Open `path` for reading. Raises InvalidInputError if the system refuses."""
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidInputError(f"{path}: expected a readable file, got: {why}") from None


def read_bytes(path: Path, most: int) -> bytes:
    """Return the contents of a file.

    Raises InvalidInputError, naming the file, if there is no such file or the file has more than
    `most` bytes.
    """
    if not is_file(path):
        raise InvalidInputError(f"{path}: expected a file, found none")
    with open_binary(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise InvalidInputError(f"{path}: expected at most {most} bytes, got {size}")
        return file.read(size)
