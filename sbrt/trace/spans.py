"""Reads times of the lanes' work from the engine's fixed ring buffer of events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..outputs import LaneTimes

DRAFT, TARGET = "draft", "target"  # names of the lanes' streams


@dataclass(frozen=True)
class Span:
    """The time from begin_ns to end_ns in which a stream ran the op `name`. is_wait: the stream
    waited for the op instead. Times are ns of the steady clock."""

    stream: str
    name: str
    begin_ns: int
    end_ns: int
    is_wait: bool


@dataclass(frozen=True)
class Round:
    """The result of one round.

    number: number of the round since the engine was made. depth: depth of the verified chain. n:
    depth of the last accepted node. branches: number of branches prepared in this round; 0 in a
    serial round.
    is_hit: True if a branch for the outcome was prepared and the sequence did not end.
    tokens: number of committed tokens: n + 1, or fewer in the round that ends the sequence.
    """

    number: int
    depth: int
    n: int
    branches: int
    is_hit: bool
    tokens: int


def lane_times(spans: Iterable[Span], prefix: str = "prefill") -> LaneTimes:
    """Return the LaneTimes: seconds in which each lane works, and in which both work.

    Spans whose names begin with `prefix` are left out.
    """
    work: dict[str, list[tuple[int, int]]] = {DRAFT: [], TARGET: []}
    for span in spans:
        if not span.is_wait and span.stream in work and not span.name.startswith(prefix):
            work[span.stream].append((span.begin_ns, span.end_ns))
    return LaneTimes(
        draft=_total(work[DRAFT]) / 1e9,
        verify=_total(work[TARGET]) / 1e9,
        overlap=_overlap(sorted(work[DRAFT]), sorted(work[TARGET])) / 1e9,
    )


def _total(intervals: Iterable[tuple[int, int]]) -> int:
    return sum(end - begin for begin, end in intervals)


def _overlap(a: Sequence[tuple[int, int]], b: Sequence[tuple[int, int]]) -> int:
    """Return the total length of the intersection of two sorted lists of intervals. The intervals
    of one list do not overlap."""
    total = i = j = 0
    while i < len(a) and j < len(b):
        begin, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        total += max(0, end - begin)
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return total
