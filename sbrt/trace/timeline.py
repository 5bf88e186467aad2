"""Assigns the spans of one request's trace to its rounds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from .spans import DRAFT, TARGET, Round, Span

PREFILL = "prefill"  # spans whose names begin with this belong to no round


@dataclass(frozen=True)
class TimedRound:
    """A round with its times in ns. A round lasts from the end of the previous round's op `select`
    to the end of its own.

    first_token: index in the output of the first token that the round committed. burst: the draft's
    spans. kept: number of nodes of the adopted tail that are in the next chain; None if there was
    no next round.
    """

    round: Round
    begin_ns: int
    end_ns: int
    first_token: int
    kept: int | None
    select: Span
    verify: Span | None
    burst: list[Span] = field(default_factory=list)


def timed_rounds(spans: Sequence[Span], rounds: Sequence[Round]) -> list[TimedRound]:
    """Return rounds with their spans, oldest first. Rounds whose spans are lost are left out.

    Every round has one span named `select`. The last `select` belongs to the last round, and so on
    backwards.
    """
    target, draft = lane_work(spans, TARGET), lane_work(spans, DRAFT)
    selects = [span for span in target if span.name == "select"]
    count = min(len(selects), len(rounds))
    if count == 0:
        return []
    decided, selects = list(rounds[-count:]), selects[-count:]
    firsts = [0, *accumulate(r.tokens for r in rounds)][-count - 1 : -1]
    kept: list[int | None] = [*(r.depth for r in decided[1:]), None]
    begins = [min(span.begin_ns for span in [*target, *draft]), *(s.end_ns for s in selects)]
    found = []
    for at, select in enumerate(selects):
        begin, end = begins[at], select.end_ns
        verify = [span for span in _between(target, begin, end) if span.name == "verify"]
        found.append(
            TimedRound(
                round=decided[at],
                begin_ns=begin,
                end_ns=end,
                first_token=firsts[at],
                kept=kept[at],
                select=select,
                verify=verify[-1] if verify else None,
                burst=_between(draft, begin, end),
            )
        )
    return found


def lane_work(spans: Iterable[Span], lane: str) -> list[Span]:
    """Return the spans in which a lane worked on rounds, in order of time. Waits and prefill are
    left out."""
    work = (s for s in spans if s.stream == lane and not s.is_wait)
    found = [span for span in work if not span.name.startswith(PREFILL)]
    return sorted(found, key=lambda span: span.begin_ns)


def _between(spans: Sequence[Span], begin: int, end: int) -> list[Span]:
    """Return the spans that begin in [begin, end). `spans` is sorted."""
    first = bisect_left(spans, begin, key=lambda span: span.begin_ns)
    last = bisect_left(spans, end, key=lambda span: span.begin_ns)
    return list(spans[first:last])
