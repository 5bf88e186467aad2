"""`python -m bench.auto`: compares `auto` with plain decoding and with fixed methods.

    python -m bench.auto --draft demo-poor --prompts F --limit 8 --runs 9 --threads 2

A run measures all methods, which take turns after each prompt. A ratio compares two methods in the
same run. The interval of a ratio reaches from the second lowest to the second highest of its values
in all runs. With nine runs the interval contains the true median with 96 % probability.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from sbrt import check, methods
from sbrt.errors import InvalidInputError
from sbrt.methods import AUTO, Method
from sbrt.outputs import ratio
from sbrt.tools import compare, flags
from sbrt.tools.measure import Bench, Report, measure
from sbrt.tools.progress import Phases
from sbrt.tools.table import aligned

FIXED = (
    *("lookup:gamma=4", "draft_model:gamma=1", "draft_model:gamma=2", "tree:gamma=2,width=4"),
    *("pearl:gamma=3", "specbranch:gamma=3", "hedge:gamma=3,F=16"),
)
RUNS, REPEATS = 9, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 after a defect, 2 for bad input."""
    return flags.guarded("bench.auto", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = flags.Parser(prog="python -m bench.auto", description=__doc__.splitlines()[0])
    flags.add_model_flags(parser)
    flags.add_method_flags(parser)
    add = parser.add_argument
    add("--runs", type=int, default=RUNS, metavar="N", help="default: %(default)s")
    add("--changing", action="store_true", help="repeat each prompt of the second half")
    args = parser.parse_args(argv)
    compare.check_outputs(args)
    check.integer("--runs", args.runs, 3, 1000)
    names = FIXED if args.methods is None else methods.parse_list(args.methods)
    fixed = [m for m in flags.read_methods(args, names) if m.name not in (AUTO, "none")]
    if not fixed:
        raise InvalidInputError("--methods: expected one other than auto and none, got none")
    reports = _runs(args, fixed)
    lines = judged(reports)
    compare.write_json(args.json, lines)
    if args.json != "-":
        print(_text(lines))
    return max(map(compare.verdict, reports))


def _runs(args: argparse.Namespace, fixed: Sequence[Method]) -> list[Report]:
    prompts, params = flags.prompts(args), flags.sampling(args)
    if args.changing:
        prompts = changing(prompts)
    auto, none = flags.read_methods(args, (AUTO, "none"))
    given = [none, auto, *fixed]
    config, pair = flags.load(args, given)
    bar = Phases()
    try:
        with closing(Bench.open(config, pair, given)) as bench:
            return [
                measure(bench, given, none, prompts, params, progress=bar.update)
                for _ in range(args.runs)
            ]
    finally:
        bar.close()


def changing(prompts: Sequence[str]) -> list[str]:
    """Return the prompts. Those of the second half become REPEATS copies of their text.

    The target tends to continue such a prompt with another repetition.
    """
    half = (len(prompts) + 1) // 2
    return [*prompts[:half], *(REPEATS * prompt for prompt in prompts[half:])]


def judged(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Return for each method {method, tokens_per_second, speedup, interval, of_best, ...}.

    speedup: the method's tokens/s divided by that of `none` in the same run; median over the runs.
    of_best: the method's tokens/s divided by that of `best` in the same run; median over the runs.
    `best` is the method with the largest median tokens/s among `none` and the fixed methods.
    """
    tallies = list(zip(*(report.tallies for report in reports), strict=True))
    rates = {runs[0].method.text: [tally.rate for tally in runs] for runs in tallies}
    plain = rates["none"]
    best = max((m for m in rates if m != AUTO), key=lambda m: statistics.median(rates[m]))
    found = []
    for runs in tallies:
        name = runs[0].method.text
        to_none, to_best = _ratios(rates[name], plain), _ratios(rates[name], rates[best])
        found.append(
            {
                "method": name,
                "tokens_per_second": statistics.median(rates[name]),
                "speedup": statistics.median(to_none),
                "interval": _interval(to_none),
                "best": best,
                "of_best": statistics.median(to_best),
                "of_best_interval": _interval(to_best),
                "chosen": runs[-1].chosen,
                "identical_to_none": all(tally.is_identical for tally in runs),
            }
        )
    return found


def _ratios(rates: Sequence[float], others: Sequence[float]) -> list[float]:
    return [ratio(mine, other) for mine, other in zip(rates, others, strict=True)]


def _interval(values: Sequence[float]) -> tuple[float, float]:
    inner = sorted(values)[1:-1]
    return inner[0], inner[-1]


def _text(lines: Sequence[dict[str, Any]]) -> str:
    rows: list[tuple[str, ...]] = [
        ("method", "tokens/s", "x none", "interval", "x best", "interval")
    ]
    for line in lines:
        (low, high), (least, most) = line["interval"], line["of_best_interval"]
        rows.append(
            (
                line["method"],
                f"{line['tokens_per_second']:.0f}",
                f"{line['speedup']:.3f}",
                f"{low:.3f}-{high:.3f}",
                f"{line['of_best']:.3f}",
                f"{least:.3f}-{most:.3f}",
            )
        )
    auto = next(line for line in lines if line["method"] == AUTO)
    chosen = ", ".join(f"{n} x {name}" for name, n in auto["chosen"].items())
    said = f"best fixed method: {auto['best']}; rounds of auto in the last run: {chosen}"
    return "\n".join([*aligned(rows), "", said])


if __name__ == "__main__":
    sys.exit(main())
