"""Makes the trace of an answer in the form that clients get: token texts, rounds, spans of both
lanes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..model.detokenizer import Detokenizer
from ..model.tokenizer import Tokenizer
from ..trace.spans import DRAFT, TARGET, Span
from ..trace.timeline import lane_work
from .answers import Choice

MOST_SPANS = 4000  # maximum number of spans of a lane in a trace; the latest are kept


def trace_of(
    choice: Choice, tokenizer: Tokenizer | None, skip_special: bool
) -> dict[str, Any] | None:
    """Return the trace of a finished answer; None if it was not requested.

    tokens: a text for each token; joined, they are the answer's text. rounds: the answer's rounds
    in order; empty if the engine no longer has all of them. lanes: [name, begin, end] of each span
    of work, in ms from the beginning of the first span.
    """
    history = None if choice.final is None else choice.final.history
    if history is None:
        return None
    rounds = [
        {"depth": r.depth, "n": r.n, "branches": r.branches, "is_hit": r.is_hit, "tokens": r.tokens}
        for r in history.rounds
    ]
    texts = [] if tokenizer is None else token_texts(choice, tokenizer, skip_special)
    return {"tokens": texts, "rounds": rounds, "lanes": _lanes(history.spans)}


def token_texts(choice: Choice, tokenizer: Tokenizer, skip_special: bool) -> list[str]:
    """Return the text that each token added to the answer. It is "" for a token that ends inside a
    character."""
    decoder = Detokenizer(tokenizer, choice.prompt_ids, skip_special=skip_special)
    texts = [decoder.push(token) for token in choice.ids]
    if texts:
        texts[-1] += decoder.flush()
    # Number of characters of the answer. `texts` may have more, because the answer ends before a
    # stop string.
    left = sum(map(len, choice.text))
    found = []
    for text in texts:
        found.append(text[:left])
        left -= len(found[-1])
    return found


def _lanes(spans: Sequence[Span]) -> dict[str, list[tuple[str, float, float]]]:
    work = {lane: lane_work(spans, lane)[-MOST_SPANS:] for lane in (DRAFT, TARGET)}
    begin = min((found[0].begin_ns for found in work.values() if found), default=0)
    return {
        lane: [(s.name, (s.begin_ns - begin) / 1e6, (s.end_ns - begin) / 1e6) for s in found]
        for lane, found in work.items()
    }
