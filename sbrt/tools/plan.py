"""`sbrt plan`: predicts each method's speed for given costs, and recommends a method.

The command runs real rounds in simulated time, and tries every gamma if none is given. It uses a
real pair of models with prompts or, with --acceptance, a toy pair. The toy draft's first choice is
right at the given rate, and its confidence is accurate (csrc/model/toy.h). The text of toy models
does not repeat, so look-ups find nothing in that text. With --concurrency each method runs once for
every number of sequences in flight.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import check, methods
from .._core import Toy
from ..config import EngineConfig
from ..engine import Engine
from ..errors import InvalidInputError
from ..files import check_writable, write_file
from ..methods import Method
from ..outputs import ratio
from ..sampling import SamplingParams
from ..serve.pair import Pair
from . import closed_loop, compare, flags, picture, table
from .costs import CostModel, cost_model, read_costs
from .measure import Report
from .simulate import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Curves = Callable[[Axes, Sequence[Report]], None]

SECONDS = 2.0  # seconds for measuring costs
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 48, 64)  # numbers of rows that are measured
MORE_ROWS = (*ROWS, 128, 256, 512)  # numbers of rows that are measured on the draft
TOY_VOCAB, TOY_TOKENS, TOY_PROMPTS = 512, 400, 4
MEASURED = "measured here"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags: the pair of models or acceptance rates, the costs, the outputs."""
    flags.add_pair_flags(parser)
    add = parser.add_argument
    add("--prompts", type=Path, metavar="F", help="JSON lines: prompt, question or turns")
    add("--limit", type=int, metavar="N", help="only the first N prompts of the file")
    add(
        "--costs",
        metavar="c=8|NAME|COSTS.json",
        help="costs of forwards, NAME: of a device (default: measured here)",
    )
    add(
        "--acceptance",
        metavar="A,B,...",
        help="synthetic drafts with these acceptance rates",
    )
    add("--methods", metavar="A,B,...", help=f"default: {','.join(methods.METHODS)}")
    add(
        "--concurrency",
        metavar="A,B,...",
        help="numbers of sequences in flight, for example 1,2,4,8,16 (default: one prompt after "
        "the other)",
    )
    add(
        "--png",
        type=Path,
        metavar="F",
        help="draw speed-up over gamma or, with --concurrency, over sequences",
    )
    add("--save-costs", type=Path, metavar="F", help="write the measured costs to a file")
    flags.add_json_flag(parser)
    parser.set_defaults(
        run=run, gamma=None, branches=None, prompt=None, prompt_file=None, trace=None
    )


def run(args: argparse.Namespace) -> int:
    """Print a table for each acceptance rate, or one table for the pair of models. Returns the exit
    code: 1 if tokens differ from plain decoding."""
    _check(args)
    names = methods.METHODS if args.methods is None else methods.parse_list(args.methods)
    given = flags.read_methods(args, names)
    reports = _of_pair(args, given) if args.acceptance is None else _of_toys(args, given)
    if args.png is not None:
        _draw(args.png, reports, _curves if args.concurrency is None else _lines)
    every = [report for many in reports.values() for report in many]
    compare.write_json(args.json, [line for report in every for line in report.lines()])
    said = "\n\n".join(_said(name, many) for name, many in reports.items())
    compare.show(args.json, said)
    return max(map(compare.verdict, every))


def measured_costs(
    engine: Engine, seconds: float = SECONDS, temperature: float = 0.0
) -> dict[str, Any]:
    """Measure this machine's costs, and return the JSON object of a cost file. It has the times of
    forwards by number of rows, measured with one lane and with both lanes at work. It also has the
    costs of a round. All times are in microseconds.

    Without a draft, the draft is assumed to be as slow as the target: t equals T.
    """
    found = engine.measure_costs(seconds, temperature)
    has_draft = found.draft[0] > 0
    drafts = (found.draft, found.draft_overlapped) if has_draft else (found.target,) * 2
    alone, beside = _by_rows(found.target, ROWS), _by_rows(found.target_overlapped, ROWS)
    t, t_beside = (_by_rows(column, MORE_ROWS) for column in drafts)
    return {
        "T": alone,
        "t": t,
        "T_overlapped": beside,
        "t_overlapped": t_beside,
        "round_us": found.round_ns / 1e3,
        "turns_us": found.turns_ns / 1e3,
        "side_by_side_us": found.side_by_side_ns / 1e3,
        "devices": "shared",
    }


def _check(args: argparse.Namespace) -> None:
    compare.check_outputs(args)
    check_writable("--save-costs", args.save_costs)
    if args.acceptance is not None and args.costs is None:
        raise InvalidInputError("--acceptance: expected --costs with it, got none")
    if args.acceptance is not None and args.prompts is not None:
        raise InvalidInputError("--acceptance: expected no --prompts with it, a toy reads none")
    if args.concurrency is not None:
        closed_loop.counts("--concurrency", args.concurrency)
    if args.save_costs is not None and args.costs is not None:
        raise InvalidInputError("--save-costs: expected costs to be measured, got --costs")


def _acceptances(text: str) -> list[float]:
    found = []
    for part in text.split(","):
        try:
            number = float(part)
        except ValueError:
            raise InvalidInputError(
                f"--acceptance: expected numbers, got {check.show(part)}"
            ) from None
        found.append(check.number("--acceptance", number, 0, 1))
    return found


def _of_pair(args: argparse.Namespace, given: Sequence[Method]) -> dict[str, list[Report]]:
    prompts, params = flags.prompts(args), flags.sampling(args)
    config, pair = flags.load(args, given)
    work = compare.Work(config, pair, given, prompts, params)
    if args.costs is not None:
        return {"": _simulated(args, work, read_costs(args.costs, "--costs"))}
    with Engine(config, pair=pair, methods=given) as engine:
        costs = measured_costs(engine, temperature=params.temperature)
    if args.save_costs is not None:
        write_file(args.save_costs, f"{json.dumps(costs, indent=1)}\n".encode())
        print(f"wrote {args.save_costs}", file=sys.stderr)
    return {"": _simulated(args, work, cost_model(MEASURED, costs))}


def _of_toys(args: argparse.Namespace, given: Sequence[Method]) -> dict[str, list[Report]]:
    model = read_costs(args.costs, "--costs")
    return {
        f"acceptance {each:g}": _simulated(args, toy_work(each, given), model)
        for each in _acceptances(args.acceptance)
    }


def toy_work(acceptance: float, given: Sequence[Method]) -> compare.Work:
    """Return the Work for a toy pair, with prompts. The toy draft's first choice is right at the
    rate `acceptance`."""
    target, draft = _toys(acceptance)
    pair = Pair(target, draft, None, frozenset(), TOY_VOCAB, "toy")  # type: ignore[arg-type]
    config = EngineConfig(
        model="toy", num_threads=1, max_model_len=2 * TOY_TOKENS, skip_tokenizer_init=True
    )
    prompts = [[seed, seed + 1] for seed in range(TOY_PROMPTS)]
    params = SamplingParams(temperature=0.0, max_tokens=TOY_TOKENS, ignore_eos=True)
    return compare.Work(config, pair, given, prompts, params)


def _simulated(args: argparse.Namespace, work: compare.Work, model: CostModel) -> list[Report]:
    """Return one report for each number of sequences in flight."""
    numbers: list[int | None] = [None]
    if args.concurrency is not None:
        numbers = [*closed_loop.counts("--concurrency", args.concurrency)]
    return [work.simulated(model, Sweep(model.c), number) for number in numbers]


def _toys(acceptance: float) -> tuple[Toy, Toy]:
    return Toy(vocab=TOY_VOCAB, seed=1), Toy(vocab=TOY_VOCAB, seed=1, acceptance=acceptance)


def _by_rows(ns: Sequence[int], rows: Sequence[int]) -> dict[str, float]:
    return {str(n): ns[n - 1] / 1e3 for n in rows}


def _said(name: str, reports: Sequence[Report]) -> str:
    head = f"{name}\n" if name else ""
    if reports[0].concurrency is not None:
        choices = "\n".join(
            f"{table.counted(report.concurrency or 0, 'sequence')}: {_choice(report)}"
            for report in reports
        )
        return f"{head}{table.render_many(reports)}\n\n{choices}"
    [report] = reports
    return f"{head}{table.render(report)}\n{_choice(report)}"


def _choice(report: Report) -> str:
    best = max(report.shown(), key=lambda tally: tally.rate)
    others = {k: v for k, v in best.method.options.items() if k in ("gamma", "F", "on_miss")}
    options = ",".join(f"{k}={v}" for k, v in others.items() if best.method.name != "auto")
    choice = f"{best.method.name}{':' if options else ''}{options}"
    times = ratio(best.rate, report.plain.rate)
    return f"Choose {choice}: {times:.2f} times plain decoding is to be expected."


def _draw(path: Path, reports: dict[str, list[Report]], curves: Curves) -> None:
    """Plot speedups over plain decoding: a line for each method, a plot for each pair of models or
    acceptance rate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(reports), 4.6))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(reports), squeeze=False, sharey=True)[0]
    for axis, (name, many) in zip(axes, reports.items(), strict=True):
        curves(axis, many)
        axis.set_title(name or (many[0].simulated.text if many[0].simulated else ""), fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("times plain decoding")
    axes[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    figure.tight_layout()
    data = io.BytesIO()
    figure.savefig(data, dpi=120, format="png", bbox_inches="tight")
    write_file(path, data.getvalue())
    print(f"wrote {path}", file=sys.stderr)


def _lines(axis: Axes, reports: Sequence[Report]) -> None:
    """Plot the rate of each method against the number of sequences. Each rate is divided by the
    rate of plain decoding with the same number of sequences."""
    numbers = [report.concurrency or 0 for report in reports]
    axis.axhline(1.0, color=picture.FAINT, linewidth=0.8)
    for i, tallies in enumerate(zip(*(report.shown() for report in reports), strict=True)):
        plain = (report.plain.rate for report in reports)
        times = [ratio(tally.rate, rate) for tally, rate in zip(tallies, plain, strict=True)]
        axis.plot(numbers, times, "o-", ms=3, color=f"C{i}", label=tallies[0].method.name)
    axis.set_xscale("log", base=2)
    axis.set_xticks(numbers, [str(n) for n in numbers])
    axis.set_xlabel("sequences in flight")


def _curves(axis: Axes, reports: Sequence[Report]) -> None:
    """Plot the best rate of each method against gamma. Rates are divided by the rate of plain
    decoding."""
    [report] = reports
    plain = report.plain.rate
    axis.axhline(1.0, color=picture.FAINT, linewidth=0.8)
    for i, tally in enumerate(t for t in report.tallies if t.method.name != "none"):
        label, color = tally.method.text, f"C{i}"
        best: dict[int, float] = {}
        for setting in tally.sweep:
            gamma = int(setting["gamma"])
            best[gamma] = max(best.get(gamma, 0.0), ratio(setting["tokens_per_second"], plain))
        if best:
            gammas = sorted(best)
            axis.plot(gammas, [best[g] for g in gammas], "o-", ms=3, color=color, label=label)
        else:
            axis.axhline(ratio(tally.rate, plain), color=color, linestyle="--", label=label)
    axis.set_xlabel("gamma")
