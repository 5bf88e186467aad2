"""`python -m bench.decode`: tokens/s of methods beside each other, as `sbrt compare` measures them.

python -m bench.decode --target D --draft D --prompts F --methods none,pearl --limit 16 --json -
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sbrt import compare, flags
from sbrt.measure import PLACEMENTS


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
    args = parser.parse_args(argv)
    return compare.run(args, args.placement)


if __name__ == "__main__":
    sys.exit(main())
