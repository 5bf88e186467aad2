"""Compares methods on the same prompts, for `sbrt compare` and `bench.decode`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import console, methods
from ..config import EngineConfig
from ..files import check_writable, write_file
from ..methods import Method
from ..model import names
from ..sampling import SamplingParams
from ..serve.pair import Pair
from ..trace.chrome import Recording, write_chrome
from . import flags, picture, table
from .costs import CostModel
from .measure import Bench, Report, measure
from .progress import Phases
from .simulate import Simulator, Sweep

GAMMA_STAYS = frozenset({"gamma"})  # no option is swept: every method runs as given


@dataclass(frozen=True)
class Work:
    """The methods to measure on one pair of models, and the prompts. The prompts are text or token
    ids.

    keep_spans: the report keeps the trace of each method's longest answer.
    """

    config: EngineConfig
    pair: Pair
    methods: Sequence[Method]
    prompts: Sequence[str] | Sequence[list[int]]
    params: SamplingParams
    placement: str = "shared"
    keep_spans: bool = False

    def by_the_clock(self) -> Report:
        """Run the methods, and return a report of times that were measured on this machine. Raises
        EngineError if a generation fails."""
        with (
            closing(Phases()) as bar,
            closing(Bench.open(self.config, self.pair, self.methods, self.placement)) as bench,
        ):
            return measure(
                bench,
                self.methods,
                methods.parse("none"),
                self.prompts,
                self.params,
                progress=bar.update,
                keep_spans=self.keep_spans,
            )

    def simulated(self, model: CostModel, sweep: Sweep, concurrency: int | None = None) -> Report:
        """Run the methods, and return a report in the simulated time of `model`. Raises EngineError
        if a generation fails.

        concurrency: number of sequences of a closed loop; None: one prompt after the other.
        """
        given, costs, config = sweep.widest(self.methods), model.costs(), self.config
        if concurrency is not None:
            config = replace(config, max_num_seqs=concurrency)
        with (
            closing(Phases()) as bar,
            closing(Bench.open(config, self.pair, given, self.placement, costs)) as bench,
        ):
            simulator = Simulator(
                bench, model, sweep, self.params, bar.update, self.keep_spans, concurrency
            )
            return simulator.report(self.methods, methods.parse("none"), self.prompts)


def run(args: argparse.Namespace, placement: str = "shared") -> int:
    """Run a comparison; returns the exit code.

    The exit code is 1 if a method's tokens differ from those of plain decoding, which is a defect.
    Otherwise it is 0.
    """
    check_outputs(args)
    given = flags.read_methods(args, method_names(args))
    prompts = flags.prompts(args)
    reports = measured(args, given, prompts, placement)
    skipped = reports[0].skipped
    if skipped:
        sentence = f"skipped {skipped} of {len(prompts)} prompts: they do not fit"
        print(sentence, file=sys.stderr)
    if args.png is not None:
        picture.draw(args.png, reports[0])
        print(f"wrote {args.png}", file=sys.stderr)
    # stdout comes last, because an error is raised if its reader has disconnected
    write_json(args.json, [line for report in reports for line in report.lines()])
    show(args.json, "\n\n".join([table.render(reports[0]), *_compared(reports)]))
    return max(map(verdict, reports))


def check_outputs(args: argparse.Namespace) -> None:
    """Raise InvalidInputError if an output cannot be written. Called before the work begins."""
    for name in ("png", "json", "trace"):  # some commands lack some of the flags
        given = getattr(args, name, None)
        if name == "png" and given is not None:
            picture.require()
        check_writable(f"--{name}", given)


def measured(
    args: argparse.Namespace, given: list[Method], prompts: list[str], placement: str
) -> list[Report]:
    """Load the models, run the methods, and write the trace if --trace is given.

    Returns one report. With --then-simulate it returns two: the second report is in simulated time
    and has no trace.
    """
    model, later, params = flags.costs(args), flags.later_costs(args), flags.sampling(args)
    concurrency = flags.concurrency(args)
    config, pair = flags.load(args, given)
    keep_spans = args.trace is not None or getattr(args, "png", None) is not None
    work = Work(config, pair, given, prompts, params, placement, keep_spans)
    if model is None:
        reports = [work.by_the_clock()]
    else:
        fixed = frozenset() if args.gamma is None else GAMMA_STAYS
        reports = [work.simulated(model, Sweep(model.c, fixed), concurrency)]
    if args.trace is not None:
        shown = [Recording(t.method.text, t.spans, t.rounds) for t in reports[0].shown()]
        write_chrome(args.trace, shown)
    if later is not None:
        again = replace(work, keep_spans=False)
        reports.append(again.simulated(later, Sweep(later.c, GAMMA_STAYS)))
    return reports


def write_json(where: str | None, lines: list[dict[str, Any]]) -> None:
    """Write a list to a file, one object per line; "-" means stdout, None means nowhere."""
    if where is None:
        return
    text = _json_of(lines)
    if where != "-":
        write_file(Path(where), f"{text}\n".encode())
    elif console.has_every_character(text):
        print(text)
    else:
        print(_json_of(lines, ensure_ascii=True))


def show(where: str | None, text: str) -> None:
    """Print text for people. where: the place of the JSON output, as in `write_json`.

    If stdout gets the JSON, the text is not printed. If a file gets the JSON and stdout is closed,
    the text is not printed either.
    """
    if where is None or (where != "-" and console.has_stdout()):
        print(text)


def _json_of(lines: list[dict[str, Any]], ensure_ascii: bool = False) -> str:
    objects = [json.dumps(line, ensure_ascii=ensure_ascii, allow_nan=False) for line in lines]
    return "[" + ",\n ".join(objects) + "]"


def verdict(report: Report) -> int:
    """Return the exit code: 0, or 1 if tokens differ. If tokens differ, a line on stderr names the
    methods."""
    wrong = [tally.method.text for tally in report.wrong]
    if wrong:
        print(f"tokens differ from plain decoding: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def _compared(reports: Sequence[Report]) -> list[str]:
    """Return tables that compare each further report with the first; [] if there is only one
    report."""
    return [table.render_next_to(reports[0], report) for report in reports[1:]]


def method_names(args: argparse.Namespace) -> list[str]:
    """Return the methods that --methods names; without the flag, all methods that can run."""
    if args.methods is not None:
        return methods.parse_list(args.methods)
    if flags.draft_name(args) == names.NONE:
        return ["none"]
    return list(methods.METHODS)
