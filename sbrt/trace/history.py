"""Holds the history of one answer: its rounds, and the lanes' work during them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .spans import Round, Span


@dataclass(frozen=True)
class History:
    """The results of an answer's rounds, and the lanes' spans from the answer's beginning to its
    end.

    The list of rounds is empty if the engine no longer has all of them. The list of spans is empty
    if the engine keeps no trace.
    """

    rounds: list[Round]
    spans: list[Span]


def rounds_of(rounds: Iterable[Round], tokens: int) -> list[Round]:
    """Return the rounds that committed the `tokens` tokens of an answer; [] if the first rounds are
    lost.

    If a stop string ended the answer inside the last round, the number of that round's tokens is
    reduced.
    """
    found = []
    for r in rounds:
        if tokens:
            found.append(replace(r, tokens=min(r.tokens, tokens)))
            tokens -= found[-1].tokens
    return [] if tokens else found
