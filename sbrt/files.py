"""Writes the output files of commands. A path is checked before the command does its work. Later
the file is written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from . import console
from .check import show
from .errors import InvalidInputError


def check_writable(name: str, path: Path | str | None) -> None:
    """Raise InvalidInputError if `path` cannot be written. None is accepted; "-" means stdout."""
    if path is None:
        return
    if str(path) == "-":
        console.check_stdout(name)
        return
    path = Path(path)
    try:
        existed = path.exists()
        if existed and not path.is_file() and not path.is_dir():
            return  # a pipe or a device: opening it would wait for a reader
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise InvalidInputError(
            f"{name}: expected a file that can be written, got {show(str(path))}: {error.strerror}"
        ) from None


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to a file next to `path`, then rename that file to `path`. So no reader ever
    finds half a file."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
