"""`sbrt demo`: the SmolLM2 pair answers a question. Then every method answers prompts about chat,
code and maths."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import methods
from ..engine import Engine
from ..files import check_writable
from ..model import names, real_pair
from ..outputs import RequestOutput, ratio
from ..sampling import SamplingParams
from . import compare, flags, picture, table
from .advice import NOTHING
from .measure import Report, Tally

# Maximum tokens of the answer that is shown, and of each answer for the table.
STREAMED, LIMIT = 160, 96


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags: picture, methods, length, threads, JSON."""
    add = parser.add_argument
    add("--png", type=Path, metavar="F", help="draw both lanes over time")
    add("--methods", metavar="A,B,...", help=f"default: {','.join(methods.METHODS)}")
    add("--max-tokens", type=int, default=LIMIT, metavar="N", help="default: %(default)s")
    add("--threads", type=int, metavar="N", help="default: the cores this process may use")
    flags.add_json_flag(parser)
    parser.set_defaults(
        run=run, target=names.SMOLLM2, draft=names.SMOLLM2, gamma=None, branches=None, trace=None,
        draft_threads=None, dtype="auto", draft_dtype=None, activation_dtype="auto", device="cpu",
        draft_device=None, cpu_affinity=None, draft_cpu_affinity=None,
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns exit code 0, or 1 if a method's tokens differ from those of plain
    decoding."""
    if args.png is not None:
        picture.require()
        check_writable("--png", args.png)
    check_writable("--json", args.json)
    chosen = list(methods.METHODS) if args.methods is None else methods.parse_list(args.methods)
    given, prompts = flags.read_methods(args, chosen), read_prompts()
    config, pair = flags.load(args, given)
    said = sys.stderr if args.json == "-" else sys.stdout
    with Engine(config, pair=pair, methods=given) as engine:
        print(prompts[0][1].rpartition("user\n")[2].partition("<|im_end|>")[0], "\n", file=said)
        for output in engine.stream(
            prompts[0][1], SamplingParams(temperature=0.0, max_tokens=STREAMED)
        ):
            print(output.delta, end="", flush=True, file=said)
        print("\n", file=said)
    params = SamplingParams(temperature=0.0, max_tokens=args.max_tokens)
    texts = [text for _, text in prompts]
    keeps = args.png is not None
    report = compare.Work(config, pair, given, texts, params, keep_spans=keeps).by_the_clock()
    if args.png is not None:
        picture.draw(args.png, report)
        print(f"wrote {args.png}", file=sys.stderr)
    compare.write_json(args.json, report.lines())
    parts = (table.render(report), by_kind(report, [kind for kind, _ in prompts]), closing(report))
    compare.show(args.json, "\n\n".join(parts))
    return compare.verdict(report)


def read_prompts() -> list[tuple[str, str]]:
    """Return (category, text) of the demo's prompts. The text is rendered with the target's chat
    template."""
    path = real_pair.draft_folder() / "prompts.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(line["category"], line["prompt"]) for line in lines]


def by_kind(report: Report, kinds: Sequence[str]) -> str:
    """Return a table of speedups: a row for each method, a column for each kind of prompt."""
    names_of = list(dict.fromkeys(kinds))
    plain = _rates(report.plain, kinds)
    rows = [("speedup", *names_of, "all")]
    for tally in report.shown():
        rates = _rates(tally, kinds)
        cells = [f"{ratio(rates[kind], plain[kind]):.2f}x" for kind in names_of]
        rows.append((tally.method.text, *cells, f"{ratio(tally.rate, report.plain.rate):.2f}x"))
    return "\n".join(table.aligned(rows))


def _rates(tally: Tally, kinds: Sequence[str]) -> Mapping[str, float]:
    """Return the tokens per second of the answers to each kind of prompt. Prefill is not
    counted."""
    tokens, seconds = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0.0)
    for kind, output in zip(kinds, tally.outputs, strict=True):
        tokens[kind] += len(output.outputs[0].token_ids)
        seconds[kind] += _seconds(output)
    return {kind: ratio(tokens[kind], seconds[kind]) for kind in tokens}


def _seconds(output: RequestOutput) -> float:
    return output.metrics.decode_seconds if output.metrics else 0.0


def closing(report: Report) -> str:
    """Return one sentence about the largest speedup over plain decoding, and its method."""
    others = [tally for tally in report.tallies if tally.method.name != "none"]
    if report.wrong:
        names = ", ".join(tally.method.text for tally in report.wrong)
        return f"Nothing is claimed here: tokens of {names} differ from plain decoding's."
    if not others:
        return "Nothing is claimed here: no method was compared with plain decoding."
    best = max(others, key=lambda tally: tally.rate)
    times = ratio(best.rate, report.plain.rate)
    if times <= 1 + NOTHING:
        said = f"On this machine nothing beat plain decoding: {best.method.text} is {times:.2f}x."
    else:
        said = (
            f"SmolLM2-135M-Instruct answers {times:.2f} times as fast as by plain decoding with "
            f"the method {best.method.text}, and every token is the same."
        )
    return "\n".join(textwrap.wrap(said, table.WIDTH))
