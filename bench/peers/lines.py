"""A line: one engine on one checkpoint, in one dtype and mode, and when it is correct."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sbrt.outputs import ratio

# Gap of a peer's best logit to that of our token, relative to the best, below which either is a
# right answer: what rounding moves. Quantised weights are exact, but activations get 8 bits.
TIES = {"float32": 1e-4, "float16": 2**-6, "bfloat16": 2**-4, "q8_0": 2**-4}
QUANTISED = ("q8_0", "int8")
OURS = "sbrt"


class PeerError(Exception):
    """What a peer could not do: one sentence."""


@dataclass(frozen=True)
class Answer:
    """ids of one generation; `timed` of them took `seconds`, prefill left out."""

    ids: list[int]
    seconds: float
    timed: int


class Source(Protocol):
    """What answers: a worker (bench/peers/process.py) or ours (bench/peers/ours.py)."""

    def generate(self, ids: list[int], max_tokens: int) -> Answer:
        """Decode greedily after `ids`."""

    def gap(self, ids: list[int], token: int) -> float:
        """How far the best logit after `ids` is above that of `token`, relative to the best."""

    def forward(self, rows: int, context: int, times: int) -> list[float] | str:
        """Microseconds of each of `times` forwards over `rows` rows, or why there are none."""

    def close(self) -> None:
        """End the process or the engine."""


@dataclass
class Line:
    """One engine. reference: the line whose ids it must give; None: itself.

    rates: tokens/s of each prompt. us: by rows, microseconds of forwards. error: why there is no
    figure: it could not be set up, opened or run.
    """

    peer: str
    checkpoint: str
    dtype: str
    mode: str
    source: Source | None = None
    reference: Line | None = None
    error: str | None = None
    version: str = ""
    tokens: int = 0
    seconds: float = 0.0
    rates: list[float] = field(default_factory=list)
    us: dict[int, list[float]] = field(default_factory=dict)
    different: int = 0  # prompts whose ids differ from the reference's
    ties: int = 0  # of them, those that part at a near-tie of the peer's own logits
    short: int = 0  # prompts with another number of tokens than asked for

    @property
    def name(self) -> str:
        """As it is written in messages."""
        return f"{self.peer} {self.dtype} {self.mode}"

    @property
    def is_correct(self) -> bool:
        """It ran, gave as many tokens as asked for, and differs at ties only; see `json`."""
        judged = self.reference is None or self.reference.is_correct
        ran = self.error is None and bool(self.rates)
        return judged and ran and not self.short and self.different == self.ties

    def say(self, sentence: str) -> None:
        """To stderr, with the line's name."""
        print(f"{self.checkpoint}, {self.name}: {sentence}", file=sys.stderr)

    def ask(self, op: str, *arguments: Any) -> Any:
        """What the source answers; None, said once, if it cannot or there is none."""
        if self.error is not None or self.source is None:
            return None
        try:
            return getattr(self.source, op)(*arguments)
        except PeerError as error:
            self.fail(str(error))
            return None

    def fail(self, sentence: str) -> None:
        """No figure, and why."""
        self.error = sentence
        self.say(sentence)

    def add(self, prompt: list[int], answer: Answer, wanted: list[int], max_tokens: int) -> None:
        """Count an answer; `wanted`: the reference's ids. May ask the peer for its logits."""
        self.tokens += len(answer.ids)
        self.seconds += answer.seconds
        self.rates.append(ratio(answer.timed, answer.seconds))
        self.short += len(answer.ids) != max_tokens
        if answer.ids != wanted:
            self.different += 1
            at = first_difference(answer.ids, wanted)
            self.ties += at < len(wanted) and self._is_tie(prompt + wanted[:at], wanted[at])

    def add_forwards(self, rows: int, us: list[float] | str | None) -> None:
        """Times of forwards of so many rows, or why there are none: said once."""
        if isinstance(us, list):
            self.us.setdefault(rows, []).extend(us)
        elif us is not None and rows not in self.us:
            self.us[rows] = []
            self.say(f"no forward of {rows} rows: {us}")

    def _is_tie(self, ids: list[int], token: int) -> bool:
        """Ours are exact: they have no ties."""
        if self.peer == OURS:
            return False
        gap = self.ask("gap", ids, token)
        return gap is not None and gap < TIES[self.dtype]

    def json(self, threads: int) -> dict[str, Any]:
        """The issue's keys, then more.

        tokens_per_second: median over prompts, from the first token after prefill to the last.
        forward_us_N: median of a forward of N rows behind 64 tokens.
        correct: every answer has as many tokens as asked for and the ids of our `none` at the same
        weights, or parts from them where the peer's own logits of both tokens are nearly equal;
        ours never part. Quantised lines (q8_0, int8) have other weights than any other engine's:
        they are compared with their own plain mode, and a quantised plain line with nothing.
        What is not correct has no figures.
        """
        shown = self.is_correct
        return {
            "peer": self.peer,
            "checkpoint": self.checkpoint,
            "dtype": self.dtype,
            "mode": self.mode,
            "threads": threads,
            "tokens_per_second": statistics.median(self.rates) if shown else None,
            "forward_us_1": self._forward(1) if shown else None,
            "forward_us_8": self._forward(8) if shown else None,
            "correct": shown,
            "spread": [min(self.rates), max(self.rates)] if shown else None,
            "prompts": len(self.rates),
            "tokens": self.tokens,
            "seconds": self.seconds if shown else None,
            "prompts_that_differ": self.different,
            "of_them_at_ties": self.ties,
            "version": self.version,
            "error": self.error,
        }

    def _forward(self, rows: int) -> float | None:
        return statistics.median(self.us[rows]) if self.us.get(rows) else None


def set_references(lines: Sequence[Line]) -> None:
    """Ours `none` for all, but a quantised line's own plain one. The first line is ours, `none`."""
    plain = {(x.peer, x.dtype): x for x in reversed(lines) if x.mode in ("plain", "none")}
    full = [x for x in lines if x.peer == OURS and x.mode == "none" and x.dtype not in QUANTISED]
    for line in lines:
        if line.dtype in QUANTISED:
            own = plain.get((line.peer, line.dtype))
        else:
            own = full[0] if full else None
        line.reference = None if own is line else own


def first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    """The first index at which two lists differ, or the length of the shorter."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
