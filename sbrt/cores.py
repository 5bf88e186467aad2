"""Determines the cores that this process may use, from its affinity and the CPU quotas of its
control groups. Reads sets of cores, and pins threads to them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from . import check
from .errors import InvalidInputError

FORM = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*")


def core_set(name: str, given: Any) -> tuple[int, ...]:
    """Return the cores that a text like "0-3,8" names, in the order of the text; () for None.

    Raises InvalidInputError if the text has another form, names a core twice, or names a core that
    this process may not use.
    """
    if given is None:
        return ()
    if not isinstance(given, str) or not FORM.fullmatch(given):
        raise InvalidInputError(f'{name}: expected cores like "0-3,8", got {check.show(given)}')
    if not hasattr(os, "sched_getaffinity"):
        raise InvalidInputError(f"{name}: expected none on a system without sched_setaffinity")
    found: list[int] = []
    for part in given.split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise InvalidInputError(f"{name}: expected ascending ranges of cores, got {part}")
        found += range(int(first), int(last or first) + 1)
    allowed = os.sched_getaffinity(0)
    for core in found:
        if core not in allowed:
            shown = ",".join(map(str, sorted(allowed)))
            raise InvalidInputError(
                f"{name}: expected cores that this process may use ({shown}), got {core}"
            )
        if found.count(core) > 1:
            raise InvalidInputError(f"{name}: expected each core once, got {core} again")
    return tuple(found)


def check_teams(name: str, target: Collection[int], draft: Collection[int]) -> None:
    """Raises InvalidInputError if the draft and the target share a core. name: the field that gives
    the draft's cores."""
    for core in draft:
        if core in target:
            raise InvalidInputError(
                f"{name}: expected cores that cpu_affinity does not name, got {core}"
            )


def check_count(name: str, cores: int, given: int | None) -> None:
    """Raises InvalidInputError unless the number of threads `given` is None or equals the number of
    `cores`. name: the field that gives the number of threads."""
    if given not in (None, cores):
        raise InvalidInputError(f"{name}: expected {cores}, the cores of cpu_affinity, got {given}")


@contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """Inside this context, pin this thread and the threads that it starts to `cores`; () changes
    nothing.

    Linux commits a page in the memory of the NUMA node whose core writes to the page first.
    """
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use, at least 1.

    A container's quota (docker --cpus, a Kubernetes limit) limits time, not the set of cores. A
    quota of 1.5 cores counts as 2 cores. root: the folder that holds proc and sys/fs/cgroup.
    """
    cores = _allowed_cores()
    for quota in _quotas(root):
        cores = min(cores, max(1, -(-quota[0] // quota[1])))
    return cores


def _allowed_cores() -> int:
    """Return the number of cores in this process's affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[tuple[int, int]]:
    """Yield (quota, period) in microseconds of every control group that limits this process.

    A group's limit holds for all groups below it.
    """
    groups = dict(_own_groups(root))
    for kind, mounted, at in _mounts(root):
        group = groups.get(kind)
        if group is None:
            continue
        # In a container the mount may show only a subtree of the control groups, and the path may
        # be relative to that subtree.
        inside = group.relative_to(mounted) if group.is_relative_to(mounted) else group
        parts = inside.parts[1:] if inside.is_absolute() else inside.parts
        folder = root / at.relative_to("/")
        for level in range(len(parts) + 1):
            found = _quota(kind, folder.joinpath(*parts[:level]))
            if found is not None:
                yield found


def _own_groups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield ("v1" or "v2", path) of each control group of this process that may limit the CPU."""
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # The group lies outside the subtree that this process can see.
        if ".." in PurePosixPath(path).parts:
            path = "/"
        if number == "0" and not controllers:
            yield "v2", PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            yield "v1", PurePosixPath(path)


def _mounts(root: Path) -> Iterator[tuple[str, PurePosixPath, PurePosixPath]]:
    """Yield ("v1" or "v2", group, mount point) of each mounted control-group tree that may limit
    the CPU.

    group: the control group that is visible at the mount point.
    """
    for line in _lines(root / "proc/self/mountinfo"):
        before, dash, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if not dash or len(fields) < 5 or len(kinds) < 3:
            continue
        mounted, at = (PurePosixPath(_unescaped(field)) for field in fields[3:5])
        if not mounted.is_absolute() or not at.is_absolute():
            continue
        if kinds[0] == "cgroup2":
            yield "v2", mounted, at
        elif kinds[0] == "cgroup" and "cpu" in kinds[2].split(","):
            yield "v1", mounted, at


def _quota(kind: str, group: Path) -> tuple[int, int] | None:
    """Return (quota, period) of one group; None if it has no limit."""
    if kind == "v2":
        words = " ".join(_lines(group / "cpu.max")).split()
    else:
        words = [
            word
            for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            for word in _lines(group / name)
        ]
    try:
        quota, period = map(int, words)
    except ValueError:  # the file holds the word max, for no limit, or there is no such file
        return None
    return (quota, period) if quota > 0 and period > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _unescaped(field: str) -> str:
    """Decode a path of mountinfo, which writes a space as \\040."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
