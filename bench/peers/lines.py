"""Lines of the table of bench.peers. A line is one engine on one checkpoint, in one dtype and mode.

This module decides when a line's answers are correct.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sbrt.outputs import ratio

# TIES has for each dtype the largest gap of a near-tie. The gap is the distance of our token's
# logit from the peer's best logit, relative to the best logit. Below the limit either token is
# right, because rounding can move the logits that much. With quantised weights, activations are
# rounded to 8 bits.
GGUF = "gguf"  # dtype of a line that reads a GGUF file and keeps the file's own weights
TIES = {"float32": 1e-4, "float16": 2**-6, "bfloat16": 2**-4, "q8_0": 2**-4, GGUF: 2**-4}
FLOATS = ("float32", "float16", "bfloat16")
OURS = "sbrt"
# Modes without a draft: the first is the name in the peers' lines, the second in our lines.
PLAIN = ("plain", "none")
ROWS = (1, 2, 4, 8, 16)  # numbers of rows of the timed forwards


class PeerError(Exception):
    """A peer failed. The message is one sentence."""


@dataclass(frozen=True)
class Answer:
    """The ids of one generation. `timed` of these ids were generated in `seconds` seconds, without
    prefill.

    picking: the seconds in which the bench's own loop chose tokens and drafts, a part of `seconds`.
    """

    ids: list[int]
    seconds: float
    timed: int
    picking: float = 0.0


@dataclass(frozen=True)
class Batch:
    """The ids of several prompts that were decoded together.

    seconds: the time in which all prompts were decoding, without prefill. timed: number of tokens
    that were generated in this time. total: seconds of the whole batch, prefill included.
    """

    ids: list[list[int]]
    seconds: float
    timed: int
    total: float


class Source(Protocol):
    """An engine that gives answers: a peer's worker (bench/peers/process.py) or sbrt
    (bench/peers/ours.py)."""

    def generate(self, ids: list[int], max_tokens: int) -> Answer:
        """Decode greedily after `ids`."""

    def generate_batch(self, prompts: list[list[int]], max_tokens: int) -> Batch:
        """Decode all `prompts` greedily in one batch. Called only for lines with in_batches."""

    def gap(self, ids: list[int], token: int) -> float:
        """Return how far the logit of `token` after `ids` is below the best logit, relative to the
        best logit."""

    def forward(self, rows: int, context: int, times: int) -> list[float] | str:
        """Run `times` forwards of `rows` rows after `context` tokens. Returns the microseconds of
        each forward, or a sentence that says why there are none."""

    def close(self) -> None:
        """End the process or close the engine."""


@dataclass
class Line:
    """One engine on one checkpoint, in one dtype and mode.

    reference: the line whose ids this line must reproduce; None: no line is the reference. parts:
    for each prompt, the index of the first token that differs from the reference, or None. rates:
    tokens/s of each prompt. us: microseconds of forwards, by number of rows. error: why the engine
    could not be set up, opened or run; then there are no figures.
    """

    peer: str
    checkpoint: str
    dtype: str
    mode: str
    source: Source | None = None
    reference: Line | None = None
    error: str | None = None
    version: str = ""
    answers: list[Answer | None] = field(default_factory=list)  # one answer per prompt so far
    tokens: int = 0
    seconds: float = 0.0
    picking: float = 0.0  # part of `seconds`; the sum of Answer.picking
    parts: list[int | None] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    us: dict[int, list[float]] = field(default_factory=dict)
    different: int = 0  # number of prompts whose ids differ from the reference's
    # Number of prompts counted in `different` whose first difference is at a near-tie.
    ties: int = 0
    short: int = 0  # number of prompts whose answer does not have max_tokens tokens
    in_batches: bool = False  # True: the engine can decode several prompts together
    batches: list[Batch] = field(default_factory=list)
    batch_different: int = 0  # like `different`, but for prompts decoded together
    batch_ties: int = 0

    @property
    def name(self) -> str:
        """The line's name in messages."""
        return f"{self.peer} {self.dtype} {self.mode}"

    @property
    def is_correct(self) -> bool:
        """True if the engine ran, all answers have max_tokens tokens, and their ids differ from the
        reference only at near-ties; see `json`."""
        judged = self.reference is None or self.reference.is_correct
        ran = self.error is None and bool(self.rates)
        differs = self.different != self.ties or self.batch_different != self.batch_ties
        return judged and ran and not self.short and not differs

    def say(self, sentence: str) -> None:
        """Print a sentence to stderr with the line's name."""
        print(f"{self.checkpoint}, {self.name}: {sentence}", file=sys.stderr)

    def ask(self, op: str, *arguments: Any) -> Any:
        """Call the method `op` of the source and return its result.

        Returns None if the line has no source or the call fails. The failure is printed once.
        """
        if self.error is not None or self.source is None:
            return None
        try:
            return getattr(self.source, op)(*arguments)
        except PeerError as error:
            self.fail(str(error))
            return None

    def fail(self, sentence: str) -> None:
        """Store `sentence` as the line's error, so that the line has no figures, and print it."""
        self.error = sentence
        self.say(sentence)

    def add(self, prompt: list[int], answer: Answer, wanted: list[int], max_tokens: int) -> None:
        """Add the answer to `prompt`. wanted: the reference's ids.

        If the ids differ from `wanted`, the source is asked whether the first difference is at a
        near-tie.
        """
        self.tokens += len(answer.ids)
        self.seconds += answer.seconds
        self.picking += answer.picking
        self.rates.append(ratio(answer.timed, answer.seconds))
        self.short += len(answer.ids) != max_tokens
        self.parts.append(None)
        if answer.ids != wanted:
            self.different += 1
            self.parts[-1] = at = first_difference(answer.ids, wanted)
            self.ties += self._is_tie(prompt, wanted, at)

    def add_batch(
        self, prompts: list[list[int]], batch: Batch, wanted: list[list[int]], max_tokens: int
    ) -> None:
        """Add the answers of one batch. wanted: the ids that the reference generates for each
        prompt alone."""
        self.batches.append(batch)
        for prompt, ids, alone in zip(prompts, batch.ids, wanted, strict=True):
            self.short += len(ids) != max_tokens
            if ids != alone:
                self.batch_different += 1
                self.batch_ties += self._is_tie(prompt, alone, first_difference(ids, alone))

    def add_forwards(self, rows: int, us: list[float] | str | None) -> None:
        """Add the times of forwards of `rows` rows. If there are none, say why, but only once."""
        if isinstance(us, list):
            self.us.setdefault(rows, []).extend(us)
        elif us is not None and rows not in self.us:
            self.us[rows] = []
            self.say(f"no forward of {rows} rows: {us}")

    def _is_tie(self, prompt: list[int], wanted: list[int], at: int) -> bool:
        """Return True if the wanted token at index `at` has nearly the best logit.

        Our own lines must be exact, so no difference counts as a tie.
        """
        if self.peer == OURS or at >= len(wanted):
            return False
        gap = self.ask("gap", prompt + wanted[:at], wanted[at])
        return gap is not None and gap < TIES[self.dtype]

    def json(self, threads: int) -> dict[str, Any]:
        """Return the line as JSON. An incorrect line has no figures.

        tokens_per_second: median over prompts, from the first token after prefill to the last.
        forward_us_N: median time of a forward of N rows that follow 64 tokens.
        correct: every answer has max_tokens tokens, and the ids of our `none` with the same
        weights. A peer's ids may differ where its own logits of both tokens are nearly equal; our
        ids must not differ. Quantised weights differ from engine to engine. So a quantised line
        must reproduce its own plain mode, and a quantised plain line is compared with nothing. On a
        GGUF file all engines have the same weights, and must reproduce our ids.
        parts_at: index of each answer's first difference from the reference; null: none.
        picking_share: sum of Answer.picking divided by `seconds`.
        batch: number of prompts decoded together; null if that was not measured.
        batch_tokens_per_second: rate of all prompts together while all were decoding, median over
        batches. With `best` in the name: the best batch. With `total`: prefill included. The
        answers are compared with those that the reference gives to each prompt alone.
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
            **{forward_key(n): self._forward(n) if shown else None for n in ROWS},
            "forward_us_best": {str(n): min(us) for n, us in self.us.items() if us and shown},
            "spread": [min(self.rates), max(self.rates)] if shown else None,
            "prompts": len(self.rates),
            "tokens": self.tokens,
            "seconds": self.seconds if shown else None,
            "picking_share": ratio(self.picking, self.seconds) if shown else None,
            "parts_at": self.parts,
            "prompts_that_differ": self.different,
            "of_them_at_ties": self.ties,
            **self._batch_json(shown),
            "version": self.version,
            "error": self.error,
        }

    def _batch_json(self, shown: bool) -> dict[str, Any]:
        rates = [ratio(batch.timed, batch.seconds) for batch in self.batches if shown]
        totals = [ratio(sum(map(len, b.ids)), b.total) for b in self.batches if shown]
        return {
            "batch": len(self.batches[0].ids) if self.batches else None,
            "batch_tokens_per_second": statistics.median(rates) if rates else None,
            "batch_best_tokens_per_second": max(rates, default=None),
            "batch_total_tokens_per_second": statistics.median(totals) if totals else None,
            "batch_prompts_that_differ": self.batch_different,
            "batch_of_them_at_ties": self.batch_ties,
        }

    def _forward(self, rows: int) -> float | None:
        return statistics.median(self.us[rows]) if self.us.get(rows) else None


@dataclass(frozen=True)
class Unit:
    """Lines that share one engine, or whose engines are opened and closed together.

    needs: bytes of memory that the engines take. `open` gives every line its source, or the error
    that says why the line has none.
    """

    lines: list[Line]
    needs: float
    open: Callable[[], None]

    def close(self) -> None:
        """Close what was opened."""
        for line in self.lines:
            if line.source is not None:
                line.source.close()


def set_references(lines: Sequence[Line]) -> None:
    """Set the reference of each line.

    The reference is our `none` for lines with float weights, and our plain line of the GGUF file
    for lines of a GGUF file. For other quantised lines it is the plain line of the same engine and
    dtype.
    """
    plain = {(x.peer, x.dtype): x for x in reversed(lines) if x.mode in PLAIN}
    full = [x for x in lines if x.peer == OURS and x.mode == "none" and x.dtype in FLOATS]
    for line in lines:
        if line.dtype in FLOATS:
            own = full[0] if full else None
        elif line.dtype == GGUF:
            own = plain.get((OURS, GGUF))
        else:
            own = plain.get((line.peer, line.dtype))
        line.reference = None if own is line else own


def forward_key(rows: int) -> str:
    """Return the JSON key for the time of a forward of `rows` rows."""
    return f"forward_us_{rows}"


def first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the first index at which two lists differ, or the length of the shorter list."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
