"""`python -m bench.decode`: compares the speed of methods in tokens/s, like `sbrt compare`.

    python -m bench.decode --target D --draft D --prompts F --methods none,pearl --limit 16 --json -
    python -m bench.decode --methods none,auto --concurrency 1,2,4,8,16 --rate 4

With --concurrency or --rate, requests share rounds. The figures are then those of a server under
load: tokens/s of all requests and of one request, time to the first token, time between tokens.
Every answer is compared with plain decoding of its prompt alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sbrt import check
from sbrt.errors import InvalidInputError
from sbrt.tools import compare, flags
from sbrt.tools.measure import PLACEMENTS

from . import load, streams
from .models.texts import TEXTS

VIEWS = ("trace", "png", "simulate", "then_simulate")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 after a defect, 2 for bad input."""
    return flags.guarded("bench.decode", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = flags.Parser(prog="python -m bench.decode", description=__doc__.splitlines()[0])
    flags.add_model_flags(parser)
    flags.add_method_flags(parser)
    flags.add_view_flags(parser)
    parser.add_argument(
        "--placement",
        choices=PLACEMENTS,
        default="shared",
        help="threads of none: all of them, or the target's share only (default: %(default)s)",
    )
    parser.add_argument(
        "--hrad",
        metavar="H|demo",
        help="a classifier (sbrt hrad train) for every specbranch that does not name one",
    )
    parser.add_argument(
        "--stream",
        type=int,
        metavar="N",
        help="instead: read every answer N times whole and N times as a stream, in turn",
    )
    _add_load_flags(parser)
    args = parser.parse_args(argv)
    if (args.prompt, args.prompt_file, args.prompts) == (None, None, None):
        args.prompts = TEXTS
    if args.stream is not None:
        _check_stream(args)
        return streams.run(args)
    is_loaded = args.concurrency is not None and args.simulate is None
    if is_loaded or args.rate is not None:
        _check_load(args)
        return load.run(args)
    if args.runs is not None:
        raise InvalidInputError("--runs: expected --concurrency or --rate with it, got neither")
    return compare.run(args, args.placement)


def _add_load_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--concurrency",
        metavar="A,B,...",
        help="instead: keep A, B, ... requests in flight, as one ends the next begins; "
        "with --simulate one number, in simulated time",
    )
    add(
        "--rate",
        metavar="R,S,...",
        help="instead, or as well: requests that arrive at random (Poisson), R, S, ... per second",
    )
    add("--runs", type=int, metavar="N", help=f"of each load and method (default: {load.RUNS})")


def _check_load(args: argparse.Namespace) -> None:
    flag = "--rate" if args.concurrency is None else "--concurrency"
    if args.runs is not None:
        check.integer("--runs", args.runs, 1, 1000)
    if args.max_tokens < 1:
        raise InvalidInputError(f"--max-tokens: expected at least 1, got {args.max_tokens}")
    if args.placement != "shared":
        raise InvalidInputError(f"{flag}: expected --placement shared, got {args.placement}")
    _check_alone(flag, args, ("stream", *VIEWS))


def _check_stream(args: argparse.Namespace) -> None:
    if args.stream < 1:
        raise InvalidInputError(f"--stream: expected at least 1, got {args.stream}")
    _check_alone("--stream", args, (*VIEWS, "concurrency", "rate"))


def _check_alone(flag: str, args: argparse.Namespace, others: Sequence[str]) -> None:
    for name in others:
        if getattr(args, name) is not None:
            raise InvalidInputError(f"{flag}: expected no --{name.replace('_', '-')} next to it")


if __name__ == "__main__":
    sys.exit(main())
