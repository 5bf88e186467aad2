"""Writes lanes and rounds as Chrome trace events, for ui.perfetto.dev and chrome://tracing.

The format is "Trace Event Format" (Google, 2016). Its event types ("phases") are X (complete), M
(metadata), i (instant), C (counter), s and f (the two ends of a flow). A flow end with bp "e" binds
to the slice that encloses it. So both ends of a flow are put in the middle of their slices.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import write_file
from .spans import DRAFT, TARGET, Round, Span
from .timeline import TimedRound, timed_rounds

TIDS = {TARGET: 1, DRAFT: 2}


@dataclass(frozen=True)
class Recording:
    """The trace of one request and the results of its rounds, under a title."""

    title: str
    spans: Sequence[Span]
    rounds: Sequence[Round]


def write_chrome(path: Path, recordings: Iterable[Recording], start_ns: int | None = None) -> None:
    """Write a trace file with one process per recording and times in microseconds. Raises OSError.

    start_ns: the time that becomes 0 in all recordings; None: each recording begins at 0.
    """
    events = [
        event
        for pid, item in enumerate(recordings, start=1)
        for event in chrome_events(item, pid, start_ns)
    ]
    text = json.dumps({"displayTimeUnit": "ms", "traceEvents": events})
    write_file(path, (text + "\n").encode())


def chrome_events(item: Recording, pid: int, start_ns: int | None = None) -> list[dict[str, Any]]:
    """Return the Chrome trace events of one recording: two threads of slices, marks of hits and
    misses, a counter of tokens.

    The slice of the op `select` has the results of its round. An arrow leads from the burst that
    drafted a tail to the verification of the tail's nodes, if the tail was adopted.
    """
    start = min((s.begin_ns for s in item.spans), default=0) if start_ns is None else start_ns
    timed = timed_rounds(item.spans, item.rounds)
    args = {timed_round.select: _args(timed_round) for timed_round in timed}
    events = [_named("process_name", item.title, pid), *_threads(item.spans, pid)]
    events += [_slice(span, start, pid, args.get(span)) for span in item.spans]
    for at, one in enumerate(timed):
        events += _round_events(one, start, pid)
        after = timed[at + 1] if at + 1 < len(timed) else None
        if one.round.is_hit and one.kept and one.burst and after and after.verify:
            events += _flow(one.burst[-1], after.verify, start, pid, one.round.number)
    return events


def _threads(spans: Sequence[Span], pid: int) -> list[dict[str, Any]]:
    """Return the events that name those lanes that have spans, and put the target above the
    draft."""
    there = {span.stream for span in spans}
    events = []
    for name, tid in TIDS.items():
        if name in there:
            events.append(_named("thread_name", name, pid, tid))
            order = {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid}
            events.append(order | {"args": {"sort_index": tid}})
    return events


def _args(one: TimedRound) -> dict[str, Any]:
    r = one.round
    return {
        "round": r.number,
        "chain": r.depth,
        "accepted": r.n,
        "rolled back": r.depth - r.n,
        "branches": r.branches,
        "outcome": _outcome(r),
        "tokens": r.tokens,
        "first token": one.first_token,
    }


def _outcome(r: Round) -> str:
    if r.branches == 0:
        return "no branch"
    return "hit" if r.is_hit else "miss"


def _round_events(one: TimedRound, start: int, pid: int) -> list[dict[str, Any]]:
    ts = _us(one.select.end_ns, start)
    total = one.first_token + one.round.tokens
    events: list[dict[str, Any]] = [
        {"ph": "C", "name": "tokens", "pid": pid, "ts": ts, "args": {"tokens": total}}
    ]
    if one.round.branches:
        mark = {"ph": "i", "name": _outcome(one.round), "cat": "outcome", "s": "t", "ts": ts}
        events.append(mark | {"pid": pid, "tid": TIDS[TARGET]})
    return events


def _flow(source: Span, to: Span, start: int, pid: int, number: int) -> list[dict[str, Any]]:
    common = {"name": "adopted", "cat": "adopted", "id": f"{pid}.{number}", "pid": pid}
    return [
        common | {"ph": "s", "ts": _middle(source, start), "tid": TIDS[source.stream]},
        common | {"ph": "f", "bp": "e", "ts": _middle(to, start), "tid": TIDS[to.stream]},
    ]


def _named(kind: str, name: str, pid: int, tid: int = 0) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _slice(span: Span, start: int, pid: int, args: dict[str, Any] | None) -> dict[str, Any]:
    event = {
        "ph": "X",
        "name": f"wait {span.name}" if span.is_wait else span.name,
        "cat": "wait" if span.is_wait else "work",
        "ts": _us(span.begin_ns, start),
        "dur": (span.end_ns - span.begin_ns) / 1e3,
        "pid": pid,
        "tid": TIDS[span.stream],
    }
    return event if args is None else event | {"args": args}


def _us(ns: int, start: int) -> float:
    return (ns - start) / 1e3


def _middle(span: Span, start: int) -> float:
    return _us((span.begin_ns + span.end_ns) // 2, start)
