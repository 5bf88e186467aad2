"""Predicts which size of draft would make decoding on this machine faster. The prediction uses
measured costs, and is made before training."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ... import methods
from ...engine import Engine
from ...model.checkpoint import expected_shapes, random_weights
from ...model.config import ModelConfig
from ...outputs import ratio
from ..costs import cost_model
from ..plan import MEASURED, measured_costs, toy_work
from ..simulate import Sweep
from ..table import aligned
from . import verdict
from .folder import write_draft
from .shape import draft_config

METHODS = ("draft_model", "tree", "specbranch")
SECONDS = 1.0  # seconds for which the costs of one size are measured
LAYERS = (1, 2, 4)
# Pairs (share, rate). share: the size of the draft's layers divided by the size of the target's
# layers. rate: how often the draft's first choice is right after an hour of training. The middle
# three pairs were measured with SmolLM2-135M as the target. The drafts were: four layers of half
# the target's width; the target's layers 0-1; the target's layers 0-3. The first and the last pair
# are guesses.
ASSUMED = ((0.015, 0.30), (0.033, 0.37), (0.067, 0.43), (0.133, 0.55), (0.3, 0.65))
# Deeper chains are not tried if their last token would be accepted less often than this.
RARELY = 0.01
PAYS = 1.02  # minimum speedup over plain decoding at which a draft is recommended

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Outlook:
    """The prediction for a size of draft.

    draft_ms, target_ms: time of a forward of one row. speedup: speedup of `method` over plain
    decoding, if the draft's first choice is right at the rate `acceptance`.
    """

    layers: int
    width: int
    parameters: int
    acceptance: float
    draft_ms: float
    target_ms: float
    method: str
    speedup: float


def candidates(target: ModelConfig, layers: int | None, width: int | None) -> list[tuple[int, int]]:
    """Return (layers, width) of the sizes to compare.

    If the user gave layers or width, that number is used. Otherwise several numbers that fit the
    target are tried.
    """
    step = math.lcm(target.head_dim, 32)
    half = max(step, target.hidden // 2 // step * step)
    widths = sorted({target.hidden, min(half, target.hidden)}) if width is None else [width]
    depths = [n for n in LAYERS if n <= target.layers] if layers is None else [layers]
    return [(n, w) for w in widths for n in depths]


def assumed(target: ModelConfig, draft: ModelConfig) -> float:
    """Return the rate at which the draft's first choice is assumed to be right after training."""
    share = (
        draft.layers * draft.hidden * draft.inner / (target.layers * target.hidden * target.inner)
    )
    logs = [math.log(at) for at, _ in ASSUMED]
    return float(np.interp(math.log(share), logs, [rate for _, rate in ASSUMED]))


def outlooks(
    target: Path, config: ModelConfig, sizes: Sequence[tuple[int, int]], vocab: int,
    threads: int | None, tell: Tell,
) -> list[Outlook]:  # fmt: skip
    """Return an Outlook for each size, best first. Costs are measured on drafts of random
    weights."""
    found = []
    for done, (layers, width) in enumerate(sizes):
        tell(done, len(sizes))
        found.append(_outlook(target, config, draft_config(config, layers, width, vocab), threads))
    return sorted(found, key=lambda one: -one.speedup)


def _outlook(target: Path, config: ModelConfig, draft: ModelConfig, threads: int | None) -> Outlook:
    given = [methods.parse(name) for name in METHODS]
    weights = dict(random_weights(draft, 0))
    with tempfile.TemporaryDirectory() as folder:
        ids = np.arange(draft.draft_vocab)
        shares = draft.hidden == config.hidden
        write_draft(Path(folder), draft, weights, ids, shares_embedding=shares)
        engine_config, pair = verdict.pair_of(target, Path(folder), given, threads)
        with Engine(engine_config, pair=pair, methods=given) as engine:
            costs = cost_model(MEASURED, measured_costs(engine, SECONDS))
    rate = assumed(config, draft)
    work = toy_work(rate, given)
    report = work.simulated(costs, Sweep(costs.c, deepest=_deepest(rate)))
    best = max((t for t in report.shown() if t.method.drafts), key=lambda tally: tally.rate)
    shapes = expected_shapes(draft)
    if shares:
        shapes = {n: s for n, s in shapes.items() if n != "model.embed_tokens.weight"}
    return Outlook(
        draft.layers, draft.hidden, sum(map(math.prod, shapes.values())), rate,
        costs.draft(1) * 1e3, costs.target(1) * 1e3, best.method.text,
        ratio(best.rate, report.plain.rate),
    )  # fmt: skip


def _deepest(rate: float) -> int:
    """Return the largest gamma whose last token is accepted often enough to be worth a try."""
    return min(methods.MAX_GAMMA, math.ceil(math.log(RARELY) / math.log(rate)))


def text(found: Sequence[Outlook]) -> str:
    """Return a sentence about the best size, and a table of all sizes, best first."""
    best = found[0]
    size = f"{best.layers} layers of {best.width}"
    pays = f"{best.speedup:.2f} times plain decoding by {best.method}"
    if best.speedup > PAYS:
        said = f"A draft can pay here: {size} promises {pays}, if it is right as often as assumed."
    else:
        said = f"A draft hardly pays here: the best size, {size}, promises {pays}."
    rows = [("layers", "width", "parameters", "draft ms", "target ms", "assumed", "by", "speedup")]
    for one in found:
        rows.append(
            (
                str(one.layers),
                str(one.width),
                f"{one.parameters / 1e6:.1f} M",
                f"{one.draft_ms:.3f}",
                f"{one.target_ms:.3f}",
                f"{one.acceptance:.2f}",
                one.method,
                f"{one.speedup:.2f}x",
            )
        )
    return "\n".join([said, "", *aligned(rows)])
