"""Methods beside each other on the same prompts: behind `sbrt compare` and `bench.decode`."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from . import flags, methods, picture, table
from .measure import Bench, Report, measure
from .methods import Method
from .progress import Progress
from .simulate import Simulator, Sweep
from .trace import write_chrome


def run(args: argparse.Namespace, placement: str = "shared") -> int:
    """Exit code 0, or 1 if a method's tokens differ from plain decoding's: that is a defect."""
    if args.png is not None:
        picture.require()
    given = flags.read_methods(args, _names(args))
    prompts = flags.prompts(args)
    report = measured(args, given, prompts, placement)
    if report.skipped:
        sentence = f"skipped {report.skipped} of {len(prompts)} prompts: they do not fit"
        print(sentence, file=sys.stderr)
    write_json(args.json, report.lines())
    if args.json != "-":
        print(table.render(report))
    if args.png is not None:
        picture.draw(args.png, report)
        print(f"wrote {args.png}", file=sys.stderr)
    return verdict(report)


def measured(
    args: argparse.Namespace, given: list[Method], prompts: list[str], placement: str
) -> Report:
    """Load, run, and write the trace if one was asked for."""
    model, params = flags.costs(args), flags.sampling(args)
    config, pair = flags.load(args, given)
    keep_spans = args.trace is not None or getattr(args, "png", None) is not None
    none = methods.parse("none")
    bar = Progress("generating")
    try:
        if model is not None:
            sweep = Sweep(model.c, frozenset() if args.gamma is None else frozenset({"gamma"}))
            with closing(
                Bench.open(config, pair, sweep.widest(given), placement, model.costs())
            ) as bench:
                simulator = Simulator(bench, model, sweep, params, bar.update, keep_spans)
                report = simulator.report(given, none, prompts)
        else:
            with closing(Bench.open(config, pair, given, placement)) as bench:
                report = measure(
                    bench, given, none, prompts, params, progress=bar.update, keep_spans=keep_spans
                )
    finally:
        bar.close()
    if args.trace is not None:
        write_chrome(args.trace, {tally.method.text: tally.spans for tally in report.shown()})
    return report


def write_json(where: str | None, lines: list[dict[str, Any]]) -> None:
    """A list, one object a line: to a file, to stdout for "-", nowhere for None."""
    if where is None:
        return
    objects = [json.dumps(line, ensure_ascii=False, allow_nan=False) for line in lines]
    text = "[" + ",\n ".join(objects) + "]"
    if where == "-":
        print(text)
    else:
        Path(where).write_text(text + "\n", encoding="utf-8")


def verdict(report: Report) -> int:
    wrong = [tally.method.text for tally in report.tallies if not tally.is_identical]
    if wrong:
        print(f"tokens differ from plain decoding: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def _names(args: argparse.Namespace) -> list[str]:
    if args.methods is not None:
        return methods.parse_list(args.methods)
    return list(methods.METHODS) if flags.draft_name(args) != "none" else ["none"]
