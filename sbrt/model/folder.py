"""Opens the safetensors files of a model folder, and lists the tensors in them."""

from __future__ import annotations

from pathlib import Path

from .. import check
from ..errors import InvalidInputError
from .config import read_json
from .safetensors_file import TensorFile, open_file
from .stored import Stored, StoredNumbers


def open_files(folder: Path) -> list[TensorFile]:
    """Open model.safetensors, or the shards that model.safetensors.index.json names.

    Raises InvalidInputError, naming the file.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if check.is_file(single):
        return [open_file(single)]
    if not check.is_file(index):
        raise InvalidInputError(
            f"{folder}: expected model.safetensors or {index.name}, found neither"
        )
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InvalidInputError(
            f"{index}, weight_map: expected names and files, got {check.show(names)}"
        )
    shards: dict[str, set[str]] = {}
    for tensor, shard in names.items():
        shards.setdefault(_shard_name(index, shard), set()).add(tensor)
    return [_open_shard(folder / shard, tensors) for shard, tensors in sorted(shards.items())]


def _shard_name(index: Path, shard: object) -> str:
    """Check that a shard has a plain file name, so that it cannot lie outside the folder."""
    plain = isinstance(shard, str) and shard.endswith(".safetensors")
    if not plain or any(c in str(shard) for c in "/\\:\0"):
        raise InvalidInputError(
            f"{index}: expected shard names NAME.safetensors inside the folder, "
            f"got {check.show(shard)}"
        )
    return str(shard)


def _open_shard(path: Path, tensors: set[str]) -> TensorFile:
    if not check.is_file(path):
        raise InvalidInputError(f"{path}: expected a shard named by the index, found no such file")
    file = open_file(path)
    if tensors != file.tensors.keys():
        name = min(tensors ^ file.tensors.keys())
        where = "the index only" if name in tensors else "the shard only"
        raise InvalidInputError(
            f"{path}, tensor {check.show(name)}: expected in shard and index, is in {where}"
        )
    return file


def stored_in(files: list[TensorFile]) -> dict[str, Stored]:
    """Return every stored tensor by name, in the order of the files."""
    return {
        name: StoredNumbers(
            where=f"{entry.file}, tensor {check.show(name)}",
            dtype=entry.dtype,
            shape=entry.shape,
            size=entry.end - entry.begin,
            file=file,
            name=name,
        )
        for file in files
        for name, entry in sorted(file.tensors.items(), key=lambda item: item[1].begin)
    }
