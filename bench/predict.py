"""`python -m bench.predict`: compares wall-clock figures with predictions from simulated time.

    python -m bench.predict --draft demo --prompts F --limit 12 --methods pearl:gamma=3,tree:gamma=2

Simulated time takes the costs of forwards as input. The bench measures these costs between the
timed runs. Every method keeps the settings that the user gives; none is tuned. Every method is
timed in each run, and runs once in simulated time.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from sbrt import check, methods
from sbrt.methods import Method
from sbrt.outputs import ratio
from sbrt.tools import compare, flags
from sbrt.tools.costs import CostModel, cost_model
from sbrt.tools.measure import Bench, Report, measure
from sbrt.tools.plan import measured_costs
from sbrt.tools.progress import Phases
from sbrt.tools.simulate import Simulator, Sweep
from sbrt.tools.table import aligned

MEASURED = "measured here"
RUNS = 5
DEFAULT = (
    *("draft_model:gamma=2", "adaedl:gamma=4", "tree:gamma=2", "lookup:gamma=4", "pearl:gamma=3"),
    *("specbranch:gamma=3", "hedge:gamma=3,F=16,tree=0", "hedge:gamma=3,F=16"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 after a defect, 2 for bad input."""
    return flags.guarded("bench.predict", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = flags.Parser(prog="python -m bench.predict", description=__doc__.splitlines()[0])
    flags.add_model_flags(parser)
    flags.add_method_flags(parser)
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help="default: %(default)s")
    args = parser.parse_args(argv)
    compare.check_outputs(args)
    check.integer("--runs", args.runs, 1, 1000)
    names = DEFAULT if args.methods is None else methods.parse_list(args.methods)
    given = flags.read_methods(args, names)
    runs, model, simulated = _both(args, given)
    lines = compared(runs, simulated)
    compare.write_json(args.json, lines)
    if args.json != "-":
        print(_text(lines, model))
    return max(map(compare.verdict, [*runs, simulated]))


def _both(args: Any, given: Sequence[Method]) -> tuple[list[Report], CostModel, Report]:
    """Return the reports of the timed runs, the costs measured between these runs, and the report
    of the run in simulated time."""
    prompts, params = flags.prompts(args), flags.sampling(args)
    config, pair = flags.load(args, given)
    none = methods.parse("none")
    bar = Phases()
    try:
        with closing(Bench.open(config, pair, given)) as bench:
            costs, runs = [], []
            for _ in range(args.runs):
                costs.append(measured_costs(bench.main, temperature=params.temperature))
                runs.append(measure(bench, given, none, prompts, params, progress=bar.update))
            costs.append(measured_costs(bench.main, temperature=params.temperature))
        model = cost_model(MEASURED, mean_of(costs))
        with closing(Bench.open(config, pair, given, costs=model.costs())) as bench:
            sweep = Sweep(model.c, frozenset({"gamma"}))
            report = Simulator(bench, model, sweep, params, bar.update).report(given, none, prompts)
    finally:
        bar.close()
    return runs, model, report


def mean_of(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a cost file with the mean of each figure over `costs`, whose files have the same
    keys."""
    found: dict[str, Any] = {}
    for key, value in costs[0].items():
        values = [each[key] for each in costs]
        if isinstance(value, dict):
            found[key] = mean_of(values)
        else:
            found[key] = value if isinstance(value, str) else statistics.fmean(values)
    return found


def compared(runs: Sequence[Report], simulated: Report) -> list[dict[str, Any]]:
    """Return for each method the measured and the predicted figures.

    Measured figures are medians of the runs. error: (predicted - measured) / measured, of tokens/s.
    """
    found = []
    plain = statistics.median(run.plain.rate for run in runs)
    for said, *measured in zip(simulated.shown(), *(run.shown() for run in runs), strict=True):
        rate = statistics.median(real.rate for real in measured)
        found.append(
            {
                "method": said.method.text,
                "tokens_per_second": rate,
                "predicted_tokens_per_second": said.rate,
                "error": ratio(said.rate - rate, rate),
                "speedup": ratio(rate, plain),
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
    costs = f"T(1) {one:.0f} us, t(1) {two:.0f} us, overhead {model.round_cost * 1e6:.0f} us"
    costs += f" a round, {model.turns_cost * 1e6:.0f} more by turns"
    costs += f", {model.side_by_side_cost * 1e6:.0f} more side by side"
    worst = max(abs(line["error"]) for line in lines)
    return "\n".join([*aligned(rows), "", f"{costs}; the largest error is {worst:.1%}"])


if __name__ == "__main__":
    sys.exit(main())
