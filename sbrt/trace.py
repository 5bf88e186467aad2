"""What the lanes did and when, read from the engine's fixed ring of events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .outputs import LaneTimes

DRAFT, TARGET = "draft", "target"  # names of the lanes' streams


@dataclass(frozen=True)
class Span:
    """A stream ran `name` (or waited for it) from begin to end, ns of the steady clock."""

    stream: str
    name: str
    begin_ns: int
    end_ns: int
    is_wait: bool


def lane_times(spans: Iterable[Span], prefix: str = "prefill") -> LaneTimes:
    """Seconds of work per lane and of both at once; names that begin with `prefix` are left out."""
    work: dict[str, list[tuple[int, int]]] = {DRAFT: [], TARGET: []}
    for span in spans:
        if not span.is_wait and span.stream in work and not span.name.startswith(prefix):
            work[span.stream].append((span.begin_ns, span.end_ns))
    return LaneTimes(
        draft=_total(work[DRAFT]) / 1e9,
        verify=_total(work[TARGET]) / 1e9,
        overlap=_overlap(sorted(work[DRAFT]), sorted(work[TARGET])) / 1e9,
    )


def write_chrome(path: Path, traces: Mapping[str, Sequence[Span]]) -> None:
    """Write `traces` (one process per method) as Chrome trace events, times in microseconds.

    Open the file in chrome://tracing or ui.perfetto.dev.
    """
    events: list[dict[str, object]] = []
    for pid, (title, spans) in enumerate(traces.items(), start=1):
        tids = {name: tid for tid, name in enumerate(sorted({s.stream for s in spans}), start=1)}
        start = min((s.begin_ns for s in spans), default=0)
        events.append(_named("process_name", title, pid))
        events += [_named("thread_name", name, pid, tid) for name, tid in tids.items()]
        events += [_complete(span, start, pid, tids[span.stream]) for span in spans]
    path.write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": events}) + "\n")


def _named(kind: str, name: str, pid: int, tid: int = 0) -> dict[str, object]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _complete(span: Span, start_ns: int, pid: int, tid: int) -> dict[str, object]:
    return {
        "ph": "X",
        "name": f"wait {span.name}" if span.is_wait else span.name,
        "cat": "wait" if span.is_wait else "work",
        "ts": (span.begin_ns - start_ns) / 1e3,
        "dur": (span.end_ns - span.begin_ns) / 1e3,
        "pid": pid,
        "tid": tid,
    }


def _total(intervals: Iterable[tuple[int, int]]) -> int:
    return sum(end - begin for begin, end in intervals)


def _overlap(a: Sequence[tuple[int, int]], b: Sequence[tuple[int, int]]) -> int:
    """Length of the intersection of two sorted lists of intervals, each without overlaps."""
    total = i = j = 0
    while i < len(a) and j < len(b):
        begin, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        total += max(0, end - begin)
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return total
