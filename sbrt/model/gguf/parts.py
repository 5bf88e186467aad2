"""Opens the files of a split GGUF model: NAME-00001-of-0000N.gguf and so on."""

from __future__ import annotations

import re
from pathlib import Path

from ... import check
from ...errors import InvalidInputError
from ..safetensors_file import TensorFile
from .header import open_gguf

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def open_parts(path: Path) -> list[TensorFile]:
    """Read the headers of all files of a model, in order. path: the first or only file of the
    model.

    Raises InvalidInputError, naming the part.
    """
    first = open_gguf(path)
    count = _number(first, "split.count", 1)
    if count <= 1:
        return [first]
    match = PART.fullmatch(path.name)
    if match is None or int(match[2]) != 1 or int(match[3]) != count:
        raise InvalidInputError(
            f"{path}: expected the first of {count} parts, NAME-00001-of-{count:05d}.gguf"
        )
    files = [first]
    for i in range(1, count):
        name = f"{match[1]}-{i + 1:05d}-of-{count:05d}.gguf"
        files.append(open_gguf(path.with_name(name)))
    for i, file in enumerate(files):
        for key, expected in (("split.no", i), ("split.count", count)):
            if (given := _number(file, key, None)) != expected:
                raise InvalidInputError(f"{file.path}, {key}: expected {expected}, got {given}")
    total = sum(len(file.tensors) for file in files)
    named = _number(first, "split.tensors.count", total)
    if named != total:
        raise InvalidInputError(
            f"{path}, split.tensors.count: expected the {total} tensors of its parts, got {named}"
        )
    return files


def _number(file: TensorFile, key: str, default: int | None) -> int:
    value = file.metadata.get(key, default)
    return check.integer(f"{file.path}, {key}", value, 0, 2**31)
