"""The history of one answer: its rounds, and the lanes' work during them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .spans import Round, Span


@dataclass(frozen=True)
class History:
    """The results of an answer's rounds, and the lanes' spans from its beginning to its end.

    There are no rounds if the engine no longer has all of them, and no spans if it keeps no trace.
    """

    rounds: list[Round]
    spans: list[Span]


def rounds_of(rounds: Iterable[Round], tokens: int) -> list[Round]:
    """Return the rounds that committed `tokens` tokens; [] if the first rounds are lost.

    If a stop string ended the answer inside the last round, that round's tokens are reduced.
    """
    found = []
    for r in rounds:
        if tokens:
            found.append(replace(r, tokens=min(r.tokens, tokens)))
            tokens -= found[-1].tokens
    return [] if tokens else found
