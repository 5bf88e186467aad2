"""`python -m tests.device.rounds` measures rounds of an engine on a device: by the wall clock, and
from a trace.

python -m tests.device.rounds [--pair 8b] [--methods A,B] [--temperature 0] [--top-p 1] [--top-k 0]
    [--mode exact] [--streams] [--share 0.7] [--idle 20] [--json OUT]

The program prints tokens/s and us per round of `none` and of every method. `none` reads weights and
the context's keys and values: the program prints which share of the measured read bandwidth these
reads use. From a trace it prints how long each lane works, and how long both work at the same time.
It also prints how long the target is idle between two rounds. Overlapped methods run a second time,
with higher priority for the target's stream. --streams: answers are streamed, token by token. The
program ends with 1 if a token differs, if `none` is below --share, or if the median idle time is
--idle us or more. In --mode fast tokens may differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from bench.gpu.device import expect_cuda
from bench.models import pairs
from bench.models.real import moved_bytes
from sbrt import Engine
from sbrt.methods import parse, parse_list
from sbrt.outputs import RequestOutput
from sbrt.tools import flags
from sbrt.trace.spans import TARGET, Span, lane_times
from sbrt.trace.timeline import lane_work

METHODS = "draft_model:gamma=4,pearl:gamma=4,specbranch:gamma=4,specbranch:gamma=4,on_miss=serial"
PLAIN = "none"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return flags.guarded("tests.device.rounds", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    if args.device.startswith("cuda"):
        expect_cuda()
    names = parse_list(args.methods)
    report: dict[str, Any] = {"pair": args.pair, "tokens": args.max_tokens, "lines": []}
    config = pairs.engine_config(args.pair, args.device, names[0], mode=args.mode)
    pair = pairs.pair_of(args.pair, config)
    for draft_first in (True, False):
        asked = [name for name in names if draft_first or parse(name).policy().gamma > 0]
        with Engine(
            config, pair=pair, methods=[PLAIN, *names[1:]], draft_first=draft_first
        ) as engine:
            lines = [measured(engine, name, args) for name in (PLAIN, *asked)]
        tokens = [line.pop("answers") for line in lines]
        for line, mine in zip(lines, tokens, strict=True):
            line |= {"draft_first": draft_first, "right": mine == tokens[0]}
            report["lines"].append(line)
            print(render(line), flush=True)
    report |= shares(args, report["lines"][0])
    report["missed"] = missed(args, report)
    for sentence in report["missed"]:
        print(f"MISSED: {sentence}")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report["missed"] else 0


def measured(engine: Engine, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return a method's figures: times of all prompts without a trace, then times of one prompt
    from a trace."""
    prompt = pairs.prompts_of(args.pair)
    params = pairs.sampling_of(args, 1)

    def answer(i: int) -> RequestOutput:
        if args.streams:
            return list(engine.stream(prompt(i), params, method=method))[-1]
        return engine.generate(prompt(i), params, method=method)[0]

    answer(0)  # the first answer is the warm-up
    answers = [answer(i) for i in range(args.prompts)]
    with tempfile.TemporaryDirectory() as folder:
        engine.start_profile(Path(folder) / "trace.json")
        traced = answer(0)
        spans = engine.trace()
        engine.stop_profile()
    return {
        "method": method,
        **by_the_clock(answers),
        **by_the_trace(traced, spans),
        "answers": [list(answer.outputs[0].token_ids) for answer in answers],
    }


def by_the_clock(answers: Sequence[RequestOutput]) -> dict[str, float]:
    """Return {figure: value} for all answers together: tokens per second, tokens per round, us per
    round. Prefill is not counted."""
    seconds = sum(answer.metrics.decode_seconds for answer in answers if answer.metrics)
    tokens = sum(len(answer.outputs[0].token_ids) for answer in answers)
    each = [answer.outputs[0].spec_decode_metrics or {} for answer in answers]
    rounds = sum(spec.get("num_spec_steps", 0) for spec in each)
    return {
        "tokens_per_second": tokens / max(seconds, 1e-9),
        "tokens_per_round": tokens / max(rounds, 1),
        "us_per_round": 1e6 * seconds / max(rounds, 1),
    }


def by_the_trace(answer: RequestOutput, spans: Sequence[Span]) -> dict[str, float]:
    """Return us per round: work of the draft lane, work of the target lane, and time in which both
    lanes work. Also return the median and the largest idle time of the target between rounds, in
    us."""
    spec = answer.outputs[0].spec_decode_metrics or {}
    rounds = max(1, spec.get("num_spec_steps", 0))
    times, idle = lane_times(spans), idle_between(spans)
    return {
        "draft_us": 1e6 * times.draft / rounds,
        "verify_us": 1e6 * times.verify / rounds,
        "overlap_us": 1e6 * times.overlap / rounds,
        "idle_us": median(idle) if idle else 0.0,
        "most_idle_us": max(idle, default=0.0),
    }


def idle_between(spans: Sequence[Span]) -> list[float]:
    """Return a list of idle times of the target in us. An idle time begins when `select` ends a
    round, and lasts until the target's next work."""
    work = lane_work(spans, TARGET)
    return [(b.begin_ns - a.end_ns) / 1e3 for a, b in pairwise(work) if a.name == "select"]


def shares(args: argparse.Namespace, plain: dict[str, Any]) -> dict[str, float]:
    """Return the share of the read bandwidth that `none` uses. Return {} for trained pairs and on a
    CPU."""
    if not (pairs.is_random(args.pair) and args.device.startswith("cuda")):
        return {}
    import torch

    from bench.gpu.timing import read_bandwidth

    roof = read_bandwidth(torch.device("cuda", torch.cuda.current_device()))
    context = 100 + args.max_tokens // 2  # number of tokens of a mean prompt and half of an answer
    moved = moved_bytes(pairs.shape_of(args.pair), context, 2)
    reads = moved / (plain["us_per_round"] / 1e6)
    print(f"none reads {reads / 1e9:.0f} of {roof / 1e9:.0f} GB/s: {100 * reads / roof:.0f} %")
    return {"bytes_of_none": moved, "read_bandwidth": roof, "share_of_none": reads / roof}


def missed(args: argparse.Namespace, report: dict[str, Any]) -> list[str]:
    """Return a sentence for each method with wrong tokens, and for each limit of `args`
    that plain decoding does not keep."""
    plain = report["lines"][0]
    wrong = [line["method"] for line in report["lines"] if not line["right"]]
    found = [f"{method}: wrong tokens" for method in wrong if args.mode == "exact"]
    share = report.get("share_of_none")
    if args.share and share is not None and share < args.share:
        found.append(
            f"none: expected {100 * args.share:.0f} % of the read bandwidth, got {100 * share:.0f}"
        )
    if args.idle and plain["idle_us"] >= args.idle:
        found.append(
            f"none: expected less than {args.idle:g} us idle between rounds, "
            f"got {plain['idle_us']:.1f}"
        )
    return found


def render(line: dict[str, Any]) -> str:
    """Return a method's figures as one line of text."""
    order = "" if line["draft_first"] else ", target first"
    wrong = "" if line["right"] else " WRONG"
    return (
        f"{line['method']}{order}: {line['tokens_per_second']:.1f} tokens/s, "
        f"{line['tokens_per_round']:.2f} a round of {line['us_per_round']:.0f} us (target "
        f"{line['verify_us']:.0f}, draft {line['draft_us']:.0f}, both {line['overlap_us']:.0f}, "
        f"idle {line['idle_us']:.1f}){wrong}"
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser(prog="python -m tests.device.rounds", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", default="cuda", metavar="cuda|cpu")
    add("--pair", default="demo", metavar="|".join(pairs.NAMES))
    add("--methods", default=METHODS, metavar="A,B,...")
    add("--prompts", type=int, default=4, metavar="N")
    add("--max-tokens", type=int, default=128, metavar="N")
    pairs.add_sampling(parser)
    add("--mode", default="exact", metavar="exact|fast", help="EngineConfig.mode")
    add("--streams", action="store_true", help="stream the answers")
    add("--share", type=float, default=0.0, help="of the read bandwidth that none must reach")
    add("--idle", type=float, default=0.0, metavar="US", help="between rounds, at most")
    add("--json", metavar="OUT", help="also into this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
