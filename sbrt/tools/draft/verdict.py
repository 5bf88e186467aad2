"""Judges a draft: how often its first choice is right, its predicted speed, its measured speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import methods
from ..._core import LogitReader
from ...config import EngineConfig, SpeculativeConfig
from ...engine import Engine
from ...errors import InvalidInputError
from ...methods import Method
from ...model.checkpoint import open_checkpoint
from ...model.draft import open_draft
from ...outputs import ratio
from ...sampling import SamplingParams
from ...serve.pair import Pair, load_pair
from ..compare import GAMMA_STAYS, Work
from ..costs import cost_model
from ..measure import Report, Tally
from ..plan import MEASURED, measured_costs
from ..simulate import Sweep
from ..table import aligned
from .labels import Answer

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOP = 4  # number of the draft's most likely tokens for Agreement.among
ROWS = 64  # maximum rows of one forward
CLEAR = 1.02  # minimum speedup over the best method without a draft, to recommend the draft
TOKENS = 128
SECONDS = 2.0  # seconds for measuring costs
CLOCKED = 12  # number of held-out prompts that every method answers

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Agreement:
    """The agreement of draft and target on `tokens` tokens.

    first: share of positions at which the target's token is the draft's first choice. among: share
    of positions at which it is among the draft's TOP first choices.
    """

    first: float
    among: float
    tokens: int


@dataclass(frozen=True)
class Verdict:
    """All results of a pair of models.

    agreement: agreement by source of the answers; the key `all` means all answers. clock: measured
    times of the methods.
    predicted: times of the methods, predicted from the means of costs that were measured just
    before and just after.
    """

    agreement: dict[str, Agreement]
    clock: Report
    predicted: Report

    def sentence(self) -> str:
        """Return a sentence that recommends the draft or advises against it."""
        drafting = [t for t in self.clock.shown() if _used_draft(t)]
        without = [t for t in self.clock.shown() if not t.method.drafts]
        best, rival = max(drafting, key=_rate), max(without, key=_rate)
        plain = self.clock.plain
        times, other = ratio(best.rate, plain.rate), ratio(rival.rate, plain.rate)
        name = best.method.text
        if self.clock.wrong:
            return "Tokens differ from plain decoding's: that is a defect, whatever the speed."
        if times > CLEAR * other:
            rest = "" if rival is plain else f" and {times / other:.2f} times {rival.method.text}"
            return f"Recommended: {name} with this draft is {times:.2f} times plain decoding{rest}."
        return (
            f"Not recommended here: the best method with this draft, {name}, is {times:.2f} times "
            f"plain decoding; {rival.method.text} without a draft is {other:.2f} times."
        )

    def text(self) -> str:
        """Return the recommendation, two tables, and the recommendation again."""
        rows = [("held-out answers", "tokens", "first choice", f"among {TOP}")]
        for name, found in self.agreement.items():
            figures = (f"{found.first:.3f}", f"{found.among:.3f}")
            rows.append((name, str(found.tokens), *figures))
        head = ("method", "tokens/pass", "accepted", "predicted/s", "measured/s", "off", "speedup")
        lines = [head]
        for tally, told in zip(self.clock.shown(), self.predicted.shown(), strict=True):
            lines.append(self._line(tally, told))
        said = self.sentence()
        return "\n".join([said, "", *aligned(rows), "", *aligned(lines), "", said])

    def _line(self, tally: Tally, told: Tally) -> tuple[str, ...]:
        accepted = ratio(tally.accepted, tally.draft_tokens)
        return (
            tally.method.text,
            f"{ratio(tally.tokens, tally.passes):.2f}",
            f"{accepted:.0%}" if tally.draft_tokens else "-",
            f"{told.rate:.0f}",
            f"{tally.rate:.0f}",
            f"{ratio(told.rate, tally.rate) - 1:+.0%}",
            f"{ratio(tally.rate, self.clock.plain.rate):.2f}x",
        )

    def json(self) -> dict[str, Any]:
        """Return a JSON object: agreement by source, and the methods as in `sbrt compare`, each
        with predicted_tokens_per_second."""
        shown = zip(self.clock.shown(), self.predicted.shown(), strict=True)
        lines = [self.clock.line(t) | {"predicted_tokens_per_second": p.rate} for t, p in shown]
        agreement = {name: vars(found) for name, found in self.agreement.items()}
        return {"verdict": self.sentence(), "agreement": agreement, "methods": lines}


def _used_draft(tally: Tally) -> bool:
    """Return True if the method used the draft. `auto` did if it chose a method that drafts."""
    return tally.method.needs_draft or any(methods.parse(name).drafts for name in tally.chosen)


def judge(
    config: EngineConfig,
    pair: Pair,
    given: Sequence[Method],
    held_out: Sequence[Answer],
    tell: Tell,
    clocked: int = CLOCKED,
) -> Verdict:
    """Measure a pair's agreement on held-out answers. Measure the speed of the methods on `clocked`
    of the held-out prompts.

    Raises InvalidInputError if there are no answers.
    """
    if not held_out:
        raise InvalidInputError("draft: expected held-out answers, got none")
    threads, _ = config.threads()
    found = agreement(config, pair, held_out, threads, tell)
    spread = [held_out[i] for i in np.linspace(0, len(held_out) - 1, clocked).astype(int)]
    prompts = [answer.prompt for answer in {id(a): a for a in spread}.values()]
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS)
    work = Work(config, pair, given, prompts, params)
    before = _costs(config, pair, given)
    clock = work.by_the_clock()
    model = cost_model(MEASURED, mean_costs(before, _costs(config, pair, given)))
    return Verdict(found, clock, work.simulated(model, Sweep(model.c, GAMMA_STAYS)))


def _costs(config: EngineConfig, pair: Pair, given: Sequence[Method]) -> dict[str, Any]:
    with Engine(config, pair=pair, methods=given) as engine:
        return measured_costs(engine, SECONDS)


def mean_costs(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the means of two measurements of the same engine's costs (`measured_costs`).

    The memory of a shared machine may be a fifth slower some minutes later.
    """
    means: dict[str, Any] = {}
    for key, value in one.items():
        if isinstance(value, dict):
            means[key] = {rows: (us + other[key][rows]) / 2 for rows, us in value.items()}
        else:
            means[key] = value if isinstance(value, str) else (value + other[key]) / 2
    return means


def agreement(
    config: EngineConfig, pair: Pair, held_out: Sequence[Answer], threads: int, tell: Tell
) -> dict[str, Agreement]:
    """Return the agreement on the target's answers, by source. The key `all` means all answers."""
    assert pair.draft is not None
    longest = max(len(a.prompt) + len(a.ids) for a in held_out)
    head = _head_ids(config, pair)
    hits: dict[str, list[NDArray[np.bool_]]] = {}
    lane = LogitReader(pair.draft, longest, threads)
    for done, answer in enumerate(held_out):
        tell(done, len(held_out))
        hits.setdefault(answer.source, []).append(_hits(lane, answer, head))
    by_source = {name: np.concatenate(parts) for name, parts in sorted(hits.items())}
    by_source["all"] = np.concatenate(list(by_source.values()))
    return {
        name: Agreement(float(found[:, 0].mean()), float(found.any(1).mean()), len(found))
        for name, found in by_source.items()
    }


def _hits(lane: LogitReader, answer: Answer, head: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return bool [tokens, TOP]: True if the draft's k-th choice equals the answer's token. k is
    the column, from 0."""
    tokens, first = answer.prompt + answer.ids[:-1], len(answer.prompt) - 1
    found = []
    for at in range(0, len(tokens), ROWS):
        ids = tokens[at : at + ROWS]
        logits = lane.forward(at, ids, at + len(ids) > first)
        if logits is not None:
            logits = np.where(head < 0, -np.inf, logits[max(0, first - at) :])
            found.append(head[_first_choices(logits)])
    return np.concatenate(found) == np.array(answer.ids)[:, None]


def _first_choices(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the columns of the TOP largest logits of each row, largest first."""
    top = np.argpartition(-logits, TOP - 1, axis=1)[:, :TOP]
    order = np.argsort(-np.take_along_axis(logits, top, 1), axis=1, kind="stable")
    return np.take_along_axis(top, order, 1)


def _head_ids(config: EngineConfig, pair: Pair) -> NDArray[np.int64]:
    """Return the target's id for each of the draft's logits; -1 for ids that are never drafted."""
    folder = config.draft()
    assert folder is not None
    draft = open_draft(Path(folder), open_checkpoint(Path(config.model)))
    ids = np.array(draft.head_ids or range(draft.config.vocab))
    is_token = (ids < pair.vocab) & ~np.isin(ids, pair.holes)
    return np.where(is_token, ids, -1)


def pair_of(
    target: Path, draft: Path, given: Sequence[Method], threads: int | None
) -> tuple[EngineConfig, Pair]:
    """Load the pair of models that the methods `given` need; returns its config and the pair."""
    own = max(given, key=lambda method: len(method.options)).text
    speculative = SpeculativeConfig(method=own, model=draft)
    config = EngineConfig(model=target, num_threads=threads, speculative=speculative)
    return config, load_pair(config)


def usual_methods() -> list[Method]:
    """Return all presets, with their defaults."""
    return [methods.parse(name) for name in methods.METHODS]


def _rate(tally: Tally) -> float:
    return tally.rate
