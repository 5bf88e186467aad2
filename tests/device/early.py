"""`python -m tests.device.early`: compares answers with early launches of kernels and without.

    python -m tests.device.early [--pair 8b] [--methods A,B] [--prompts 4] [--json OUT]

Two engines with the same weights answer the same prompts in turn, one of them with
EngineConfig.programmatic_launch. The program prints the us per round of both engines, and ends with
1 if a token differs. On a CPU, which has no early launches, both engines do the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from bench.gpu.device import expect_cuda
from bench.models import pairs
from sbrt import Engine
from sbrt.methods import parse_list
from sbrt.tools import flags

METHODS = "none,draft_model:gamma=4,specbranch:gamma=4"
PROMPTS = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return flags.guarded("tests.device.early", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    if args.device.startswith("cuda"):
        expect_cuda()
    names = parse_list(args.methods)
    with ExitStack() as stack:
        usual, early = (stack.enter_context(_engine(args, names, on)) for on in (False, True))
        lines = [compared(usual, early, name, args) for name in names]
    for line in lines:
        print(render(line), flush=True)
    if args.json:
        report = {"pair": args.pair, "tokens": args.max_tokens, "lines": lines}
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(line["right"] for line in lines) else 1


def _engine(args: argparse.Namespace, names: Sequence[str], early: bool) -> Engine:
    early = early and args.device.startswith("cuda")
    config = pairs.engine_config(args.pair, args.device, names[-1], programmatic_launch=early)
    return Engine(config, pair=pairs.pair_of(args.pair, config), methods=["none", *names])


def compared(usual: Engine, early: Engine, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return a method's median us per round in both engines, and True if both engines give the same
    tokens. The first prompt also runs once before, to warm up."""
    prompt, params = pairs.prompts_of(args.pair), pairs.sampling_of(args, 1)
    times: tuple[list[float], list[float]] = ([], [])
    right = True
    for i in (0, *range(args.prompts)):
        answers = []
        for engine, found in zip((usual, early), times, strict=True):
            [output] = engine.generate(prompt(i), params, method=method)
            answers.append(list(output.outputs[0].token_ids))
            spec = output.outputs[0].spec_decode_metrics or {}
            seconds = output.metrics.decode_seconds if output.metrics else 0.0
            found.append(1e6 * seconds / max(1, spec.get("num_spec_steps", 0)))
        right &= answers[0] == answers[1]
    before, after = (median(found[1:]) for found in times)
    return {"method": method, "us_per_round": before, "us_per_round_early": after, "right": right}


def render(line: dict[str, Any]) -> str:
    """Return a result of `compared` as one line of text."""
    before, after = line["us_per_round"], line["us_per_round_early"]
    wrong = "" if line["right"] else " WRONG"
    return f"{line['method']}: {before:.0f} us a round, {after:.0f} launched early{wrong}"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser(prog="python -m tests.device.early", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", default="cuda", metavar="cuda|cpu")
    add("--pair", default="demo", metavar="|".join(pairs.NAMES))
    add("--methods", default=METHODS, metavar="A,B,...")
    add("--prompts", type=int, default=PROMPTS, metavar="N")
    add("--max-tokens", type=int, default=128, metavar="N")
    pairs.add_sampling(parser)
    add("--json", metavar="OUT", help="also into this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
