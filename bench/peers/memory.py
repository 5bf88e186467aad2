"""Decides which engines can be open together, from free memory and what each engine needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from bench.models.checkpoints import Given
from bench.peers.lines import Unit
from sbrt.model.gguf import is_gguf

GIB = 2**30
# Bytes per parameter, by storage type of the weights.
SIZES = {
    "float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "q8_0": 34 / 32, "int8": 34 / 32,
    "int4": 20 / 32,
}  # fmt: skip
STORED = 2.0  # bytes per parameter in a checkpoint's files, which hold bfloat16
# Names in cgroups of version 2, then of version 1: the file of the limit, the file of the usage,
# and the line of memory.stat that counts inactive file pages.
FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free(root: Path = Path("/")) -> float | None:
    """Return the number of bytes that this process may still allocate.

    That is the machine's free memory, or less if a limit of the process's cgroups leaves less.
    Returns None if the system reports neither. root: the folder that has proc and sys.
    """
    found = [*_of_the_machine(root), *_of_cgroups(root)]
    return min(found, default=None)


def needed(given: Given, dtype: str, has_draft: bool, copies: float, process: float) -> float:
    """Return the bytes that an engine needs: `copies` copies of its weights, plus `process`.

    has_draft: True if the engine also loads the draft. Weights of a GGUF file are as large in
    memory as in the file.
    """
    models = [given.target, given.draft] if has_draft else [given.target]
    sizes = (_kept(model, dtype.split("/")[0]) for model in models if model is not None)
    return process + copies * sum(sizes)


def _kept(model: Path, storage: str) -> float:
    """Return the bytes of a model's weights in memory."""
    if is_gguf(model):
        return float(model.stat().st_size)
    stored = float(sum(file.stat().st_size for file in model.glob("*.safetensors")))
    return SIZES[storage] * stored / STORED if storage in SIZES else stored


def groups(units: Sequence[Unit], room: float | None) -> list[list[Unit]]:
    """Return groups of units. The units of a group are open at the same time. All units are one
    group if they fit in `room` bytes. Otherwise each unit is a group of its own."""
    if room is None or sum(unit.needs for unit in units) <= room:
        return [list(units)]
    return [[unit] for unit in units]


def shortage(unit: Unit, room: float | None) -> str | None:
    """Return the reason why a unit is not opened, or None if the unit fits in `room` bytes."""
    if room is None or unit.needs <= room:
        return None
    return f"memory: expected {shown(unit.needs)} free, got {shown(room)}"


def shown(size: float) -> str:
    """Return a number of bytes as text in GiB."""
    return f"{size / GIB:.1f} GiB"


def _of_the_machine(root: Path) -> Iterator[float]:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            yield float(rest.split()[0]) * 1024


def _of_cgroups(root: Path) -> Iterator[float]:
    """Yield the bytes that each memory limit of the process's cgroup and its parents leaves."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup"
        own = PurePosixPath(path.lstrip("/"))
        for part in (own, *own.parents):  # in a container, perhaps only the top folder exists
            for folder in (top, top / "memory"):
                yield from _left(folder / part)


def _left(folder: Path) -> Iterator[float]:
    for limit, used, cache in FILES:
        most = _text(folder / limit).strip()
        now = _text(folder / used).strip()
        if not (most.isdecimal() and now.isdecimal()):  # no limit ("max"), or no such file
            continue
        freed = 0.0  # bytes of inactive file pages: the kernel frees them before memory runs out
        for line in _text(folder / "memory.stat").splitlines():
            name, _, value = line.partition(" ")
            freed = float(value) if name == cache else freed
        yield max(0.0, float(most) - float(now) + freed)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
