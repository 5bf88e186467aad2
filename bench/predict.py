"""`python -m bench.predict`: what simulated time, fed with measured costs, says of wall-clock.

    python -m bench.predict --draft demo --prompts F --limit 12 --methods pearl:gamma=3,tree:gamma=2

Costs are measured before and after the generations that are timed; every method runs with its own
settings, none of them swept, once by the clock and once in simulated time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from sbrt import compare, flags, methods
from sbrt.costs import CostModel, cost_model
from sbrt.measure import Bench, Report, measure
from sbrt.methods import Method
from sbrt.outputs import ratio
from sbrt.plan import measured_costs
from sbrt.progress import Phases
from sbrt.simulate import Simulator, Sweep
from sbrt.table import aligned

MEASURED = "measured here"
DEFAULT = (
    *("draft_model:gamma=2", "adaedl:gamma=4", "tree:gamma=2", "lookup:gamma=4", "pearl:gamma=3"),
    *("specbranch:gamma=3", "hedge:gamma=3,F=16,tree=0", "hedge:gamma=3,F=16"),
)


def main(argv: Sequence[str] | None = None) -> int:
    return flags.guarded("bench.predict", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = flags.Parser(prog="python -m bench.predict", description=__doc__.splitlines()[0])
    flags.add_model_flags(parser)
    flags.add_method_flags(parser)
    args = parser.parse_args(argv)
    compare.check_outputs(args)
    names = DEFAULT if args.methods is None else methods.parse_list(args.methods)
    given = flags.read_methods(args, names)
    clock, model, simulated = _both(args, given)
    lines = compared(clock, simulated)
    compare.write_json(args.json, lines)
    if args.json != "-":
        print(_text(lines, model))
    return max(compare.verdict(clock), compare.verdict(simulated))


def _both(args: Any, given: Sequence[Method]) -> tuple[Report, CostModel, Report]:
    """By the clock, the costs that were measured around it, and in simulated time."""
    prompts, params = flags.prompts(args), flags.sampling(args)
    config, pair = flags.load(args, given)
    none = methods.parse("none")
    bar = Phases()
    try:
        with closing(Bench.open(config, pair, given)) as bench:
            before = measured_costs(bench.main, temperature=params.temperature)
            clock = measure(bench, given, none, prompts, params, progress=bar.update)
            after = measured_costs(bench.main, temperature=params.temperature)
        model = cost_model(MEASURED, mean_of(before, after))
        with closing(Bench.open(config, pair, given, costs=model.costs())) as bench:
            sweep = Sweep(model.c, frozenset({"gamma"}))
            report = Simulator(bench, model, sweep, params, bar.update).report(given, none, prompts)
    finally:
        bar.close()
    return clock, model, report


def mean_of(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Of two cost files with the same keys."""
    found: dict[str, Any] = {}
    for key, value in one.items():
        if isinstance(value, dict):
            found[key] = mean_of(value, other[key])
        else:
            found[key] = value if isinstance(value, str) else (value + other[key]) / 2
    return found


def compared(clock: Report, simulated: Report) -> list[dict[str, Any]]:
    """{method, speedup, predicted_speedup, tokens_per_second, predicted_tokens_per_second, error}.

    error: of the predicted tokens per second, as a share of those measured.
    """
    found = []
    for real, said in zip(clock.shown(), simulated.shown(), strict=True):
        found.append(
            {
                "method": real.method.text,
                "tokens_per_second": real.rate,
                "predicted_tokens_per_second": said.rate,
                "error": ratio(said.rate - real.rate, real.rate),
                "speedup": ratio(real.rate, clock.plain.rate),
                "predicted_speedup": ratio(said.rate, simulated.plain.rate),
            }
        )
    return found


def _text(lines: Sequence[dict[str, Any]], model: CostModel) -> str:
    rows: list[tuple[str, ...]] = [
        ("method", "tokens/s", "predicted", "error", "x none", "predicted")
    ]
    rows += [
        (
            line["method"],
            f"{line['tokens_per_second']:.0f}",
            f"{line['predicted_tokens_per_second']:.0f}",
            f"{line['error']:+.1%}",
            f"{line['speedup']:.2f}",
            f"{line['predicted_speedup']:.2f}",
        )
        for line in lines
    ]
    one, two = model.target(1) * 1e6, model.draft(1) * 1e6
    costs = f"T(1) {one:.0f} us, t(1) {two:.0f} us, host {model.round_cost * 1e6:.0f} us a round"
    worst = max(abs(line["error"]) for line in lines)
    return "\n".join([*aligned(rows), "", f"{costs}; the largest error is {worst:.1%}"])


if __name__ == "__main__":
    sys.exit(main())
