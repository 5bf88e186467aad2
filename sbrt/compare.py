"""Methods beside each other on the same prompts: behind `sbrt compare` and `bench.decode`."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from . import console, flags, methods, names, picture, table
from .chrome import Recording, write_chrome
from .files import check_writable, write_file
from .measure import Bench, Report, measure
from .methods import Method
from .progress import Phases
from .simulate import Simulator, Sweep


def run(args: argparse.Namespace, placement: str = "shared") -> int:
    """Exit code 0, or 1 if a method's tokens differ from plain decoding's: that is a defect."""
    check_outputs(args)
    given = flags.read_methods(args, _names(args))
    prompts = flags.prompts(args)
    report = measured(args, given, prompts, placement)
    if report.skipped:
        sentence = f"skipped {report.skipped} of {len(prompts)} prompts: they do not fit"
        print(sentence, file=sys.stderr)
    if args.png is not None:
        picture.draw(args.png, report)
        print(f"wrote {args.png}", file=sys.stderr)
    write_json(args.json, report.lines())  # stdout comes last: its reader may have gone
    show(args.json, table.render(report))
    return verdict(report)


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse before the work what could not be written after it. Raises InvalidInputError."""
    if getattr(args, "png", None) is not None:
        picture.require()
        check_writable("--png", args.png)
    check_writable("--json", args.json)
    check_writable("--trace", args.trace)


def measured(
    args: argparse.Namespace, given: list[Method], prompts: list[str], placement: str
) -> Report:
    """Load, run, and write the trace if one was asked for."""
    model, params = flags.costs(args), flags.sampling(args)
    config, pair = flags.load(args, given)
    keep_spans = args.trace is not None or getattr(args, "png", None) is not None
    none = methods.parse("none")
    bar = Phases()
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
        shown = [Recording(t.method.text, t.spans, t.rounds) for t in report.shown()]
        write_chrome(args.trace, shown)
    return report


def write_json(where: str | None, lines: list[dict[str, Any]]) -> None:
    """A list, one object a line: to a file, to stdout for "-", nowhere for None."""
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
    """Print what people read, if the figures go elsewhere and stdout is open or is all there is."""
    if where is None or (where != "-" and console.has_stdout()):
        print(text)


def _json_of(lines: list[dict[str, Any]], ensure_ascii: bool = False) -> str:
    objects = [json.dumps(line, ensure_ascii=ensure_ascii, allow_nan=False) for line in lines]
    return "[" + ",\n ".join(objects) + "]"


def verdict(report: Report) -> int:
    """Exit code 0, or 1 with a line on stderr that names the methods whose tokens differ."""
    wrong = [tally.method.text for tally in report.wrong]
    if wrong:
        print(f"tokens differ from plain decoding: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def _names(args: argparse.Namespace) -> list[str]:
    if args.methods is not None:
        return methods.parse_list(args.methods)
    if flags.draft_name(args) == names.NONE:
        return ["none"]
    left_out = methods.AUTO if args.device.startswith("cuda") else None  # not there yet
    return [name for name in methods.METHODS if name != left_out]
