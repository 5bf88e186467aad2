"""`python -m bench.cohorts`: estimates whether rounds would be faster in two cohorts.

    python -m bench.cohorts --costs c=8,2xh200-70b-8b --acceptance 0.8

Two cohorts are the two halves of the running sequences. While the target verifies one half, the
draft works for the other half. A round accepts the same tokens with and without cohorts, so only
its time differs. N is the number of sequences, and g the number of drafted tokens of each sequence.
T(rows) is the time of a target forward, and t(rows) the time of a draft forward. A round takes

    all sequences in one serial round   T(N (1 + g)) + g t(N)
    two cohorts of N / 2 sequences      2 max(T(N / 2 (1 + g)), g t(N / 2))

In the second line T and t are the times of forwards while both lanes run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from sbrt import InvalidInputError, check
from sbrt.tools import compare, flags, table
from sbrt.tools.costs import TARGET_ROWS, CostModel, read_costs

SEQUENCES = (2, 4, 8, 16)
LONGEST = 12  # largest gamma that is tried
COSTS = "c=8,c=4,2xh200-8b-1b,2xh200-70b-8b,h200-8b-1b,h200-70b-8b"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("python -m bench.cohorts", description=__doc__)
    made.add_argument("--costs", default=COSTS, metavar="A,B", help="c=N, names or cost files")
    made.add_argument("--acceptance", type=float, default=0.8, help="of a drafted token")
    flags.add_json_flag(made)
    return made


def tokens(acceptance: float, gamma: int) -> float:
    """Return the expected number of tokens per sequence and round, 1 + a + ... + a^gamma, with a =
    `acceptance`."""
    return sum(acceptance**depth for depth in range(gamma + 1))


def serial(model: CostModel, sequences: int, gamma: int) -> float:
    """Return the time of a serial round of all sequences."""
    drafts = gamma * model.draft(sequences)
    return model.target(sequences * (1 + gamma)) + drafts + model.round_cost + model.turns_cost


def in_cohorts(model: CostModel, sequences: int, gamma: int) -> float:
    """Return the time in which each of two cohorts finishes one round."""
    half = sequences // 2
    lanes = model.target_overlapped(half * (1 + gamma)), gamma * model.draft_overlapped(half)
    return 2 * (max(lanes) + model.round_cost + model.side_by_side_cost)


def best(model: CostModel, time: Any, sequences: int, share: int, acceptance: float) -> Any:
    """Return the highest rate and its gamma, among those gammas whose rows fit one target forward.

    rate: tokens of all sequences per unit of time. time: `serial` or `in_cohorts`. share: number of
    sequences that one forward verifies. acceptance: probability that a drafted token is accepted.
    """
    fit = [g for g in range(1, LONGEST + 1) if share * (1 + g) <= TARGET_ROWS]
    rates = [(sequences * tokens(acceptance, g) / time(model, sequences, g), g) for g in fit]
    return max(rates)


def line(model: CostModel, sequences: int, acceptance: float) -> dict[str, Any]:
    """Return one line of the JSON. Rates are tokens of all sequences per time unit of the cost
    file."""
    rate, gamma = best(model, serial, sequences, sequences, acceptance)
    turns, theirs = best(model, in_cohorts, sequences, sequences // 2, acceptance)
    return {
        "costs": model.text,
        "unit": model.unit,
        "sequences": sequences,
        "serial": rate,
        "serial_gamma": gamma,
        "cohorts": turns,
        "cohorts_gamma": theirs,
        "ratio": turns / rate,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return flags.guarded("bench.cohorts", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    if not 0 < args.acceptance < 1:
        shown = check.show(args.acceptance)
        raise InvalidInputError(f"--acceptance: expected more than 0 and less than 1, got {shown}")
    compare.check_outputs(args)
    models = [read_costs(text, "--costs") for text in args.costs.split(",")]
    lines = [line(model, n, args.acceptance) for model in models for n in SEQUENCES]
    compare.write_json(args.json, lines)
    rows = [("costs", "sequences", "serial", "gamma", "cohorts", "gamma", "ratio")]
    for found in lines:
        rates = [f"{found[key]:.4g}" for key in ("serial", "cohorts")]
        gammas = [str(found[f"{key}_gamma"]) for key in ("serial", "cohorts")]
        ends = (rates[0], gammas[0], rates[1], gammas[1], f"{found['ratio']:.2f}")
        rows.append((found["costs"], str(found["sequences"]), *ends))
    compare.show(args.json, "\n".join(table.aligned(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
