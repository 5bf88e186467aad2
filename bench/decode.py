"""`python -m bench.decode`: tokens/s of methods beside each other, as `sbrt compare` measures them.

python -m bench.decode --target D --draft D --prompts F --methods none,pearl --limit 16 --json -
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sbrt.errors import InvalidInputError
from sbrt.tools import compare, flags
from sbrt.tools.measure import PLACEMENTS

from . import streams


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
    args = parser.parse_args(argv)
    if args.stream is not None:
        _check_stream(args)
        return streams.run(args)
    return compare.run(args, args.placement)


def _check_stream(args: argparse.Namespace) -> None:
    if args.stream < 1:
        raise InvalidInputError(f"--stream: expected at least 1, got {args.stream}")
    for name in ("trace", "png", "simulate", "then_simulate", "concurrency"):
        if getattr(args, name) is not None:
            raise InvalidInputError(f"--stream: expected no --{name.replace('_', '-')} next to it")


if __name__ == "__main__":
    sys.exit(main())
