"""`python -m bench.gpu.decode`: a short decode for profilers and other outside observers.

    python -m bench.gpu.decode [--device cuda] [--methods specbranch] [--max-tokens 32] [--nvtx]
        [--profile] [--trace F.json]

The command decodes plainly once, so that everything is compiled and warm. Then it runs each method,
which must generate the same tokens. With --profile, profilers capture the methods but not the plain
decoding (Engine.start_profile). compute-sanitizer, Nsight Systems and Nsight Compute run this
command (tests.device.sanitize, bench.gpu.nsight).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sbrt import Engine, EngineConfig, SamplingParams
from sbrt.errors import InvalidInputError
from sbrt.methods import parse_list
from sbrt.model.demo_pair import demo_folder
from sbrt.tools import flags
from sbrt.tools.prompts import BUILT_IN

from .device import expect_cuda


def main(argv: Sequence[str] | None = None) -> int:
    """Decode; returns the exit code: 1 if a token differs."""
    return flags.guarded("bench.gpu.decode", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    if args.device.startswith("cuda"):
        expect_cuda()
    names = parse_list(args.methods)
    config = EngineConfig(
        args.target,
        device=args.device,
        nvtx=args.nvtx,
        speculative={"model": args.draft, "method": names[0]},
    )
    params = SamplingParams(temperature=0, max_tokens=args.max_tokens, ignore_eos=True)
    with Engine(config, methods=["none", *names[1:]]) as engine:
        plain = _tokens(engine, params, "none")
        if args.profile or args.trace:
            engine.start_profile(args.trace)
        found = {name: _tokens(engine, params, name) for name in names}
        if args.profile or args.trace:
            engine.stop_profile()
    wrong = [name for name, tokens in found.items() if tokens != plain]
    print(f"{len(plain)} tokens by {', '.join(names)}: {'WRONG: ' if wrong else 'right'}", *wrong)
    return 1 if wrong else 0


def _tokens(engine: Engine, params: SamplingParams, method: str) -> tuple[int, ...]:
    return tuple(engine.generate(BUILT_IN[0], params, method=method)[0].outputs[0].token_ids)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser(prog="python -m bench.gpu.decode", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", default="cuda", metavar="cuda|cpu")
    add("--target", default=str(demo_folder("target")), metavar="DIR")
    add("--draft", default=str(demo_folder("draft")), metavar="DIR")
    add("--methods", default="specbranch", metavar="A,B,...")
    add("--max-tokens", type=int, default=32, metavar="N")
    add("--nvtx", action="store_true", help="ranges for profilers")
    add("--profile", action="store_true", help="profilers capture the methods only")
    add("--trace", metavar="F.json", help="also a Chrome trace")
    args = parser.parse_args(argv)
    if args.max_tokens < 1:
        raise InvalidInputError(f"--max-tokens: expected at least 1, got {args.max_tokens}")
    return args


if __name__ == "__main__":
    sys.exit(main())
