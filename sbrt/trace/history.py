"""The history of one answer: its rounds, and what the lanes did meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .spans import Round, Span


@dataclass(frozen=True)
class History:
    """What the rounds of an answer decided, and what the lanes did from its beginning to its end.

    No rounds where the engine no longer has all of them, no spans where it keeps no trace.
    """

    rounds: list[Round]
    spans: list[Span]


def rounds_of(rounds: Iterable[Round], tokens: int) -> list[Round]:
    """The rounds of `tokens` tokens: a stop string may end an answer before its last round does.

    [] where the first rounds are lost.
    """
    found = []
    for r in rounds:
        if tokens:
            found.append(replace(r, tokens=min(r.tokens, tokens)))
            tokens -= found[-1].tokens
    return [] if tokens else found
