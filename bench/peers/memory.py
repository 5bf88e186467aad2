"""Free memory, the memory that engines need, and the engines that can be open at once."""

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
STORED = 2.0  # bytes per parameter in these benches' folders: bfloat16
# Names of a cgroup's files in version 2 and version 1: its limit, its usage, a line of memory.stat.
FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free(root: Path = Path("/")) -> float | None:
    """Bytes that this process may still take: the machine's, or its cgroups' if they are less.

    None if nothing tells. `root` holds proc and sys.
    """
    found = [*_of_the_machine(root), *_of_cgroups(root)]
    return min(found, default=None)


def needed(given: Given, dtype: str, has_draft: bool, copies: float, process: float) -> float:
    """Bytes that an engine needs: its weights `copies` times, and `process` for everything else.

    Weights of a GGUF file keep their size, and so does its draft.
    """
    models = [given.target, given.draft] if has_draft else [given.target]
    sizes = (_kept(model, dtype.split("/")[0]) for model in models if model is not None)
    return process + copies * sum(sizes)


def _kept(model: Path, storage: str) -> float:
    """Bytes of a model's weights in memory."""
    if is_gguf(model):
        return float(model.stat().st_size)
    stored = float(sum(file.stat().st_size for file in model.glob("*.safetensors")))
    return SIZES[storage] * stored / STORED if storage in SIZES else stored


def groups(units: Sequence[Unit], room: float | None) -> list[list[Unit]]:
    """The units that are open at once: all if they fit together, else each alone."""
    if room is None or sum(unit.needs for unit in units) <= room:
        return [list(units)]
    return [[unit] for unit in units]


def shortage(unit: Unit, room: float | None) -> str | None:
    """The reason why a unit is not opened; None if it fits."""
    if room is None or unit.needs <= room:
        return None
    return f"memory: expected {shown(unit.needs)} free, got {shown(room)}"


def shown(size: float) -> str:
    """Bytes in GiB."""
    return f"{size / GIB:.1f} GiB"


def _of_the_machine(root: Path) -> Iterator[float]:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            yield float(rest.split()[0]) * 1024


def _of_cgroups(root: Path) -> Iterator[float]:
    """The rest of each memory limit of the process's cgroup and of its parents."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup"
        own = PurePosixPath(path.lstrip("/"))
        for part in (own, *own.parents):  # in a container only the last may exist
            for folder in (top, top / "memory"):
                yield from _left(folder / part)


def _left(folder: Path) -> Iterator[float]:
    for limit, used, cache in FILES:
        most = _text(folder / limit).strip()
        now = _text(folder / used).strip()
        if not (most.isdecimal() and now.isdecimal()):  # "max", or the file does not exist
            continue
        freed = 0.0  # file pages are freed first
        for line in _text(folder / "memory.stat").splitlines():
            name, _, value = line.partition(" ")
            freed = float(value) if name == cache else freed
        yield max(0.0, float(most) - float(now) + freed)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
