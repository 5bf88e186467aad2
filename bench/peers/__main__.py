"""`python -m bench.peers`: decoding here beside other engines, same weights, prompts and threads.

    python -m bench.peers --checkpoints m37,demo --prompts F --limit 8 --max-tokens 128 --json OUT

Every peer runs in a process and an environment of its own (`make peers`). Greedy, max_tokens from
every prompt whatever ends it, prefill and warm-up left out, engines interleaved prompt by prompt,
medians over prompts. Correctness first: what is not correct (Line.json) has no figures. A
checkpoint without a draft (m37, m2) has plain lines only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import checkpoints
from bench.peers import ours, report, run, settings
from sbrt import InvalidInputError, compare, flags, methods
from sbrt.cores import usable_cores


def main(argv: Sequence[str] | None = None, peers: Sequence[settings.Peer] = settings.PEERS) -> int:
    """Run the command; returns its exit code: 0, 1 after a defect, 2 for bad input."""
    return flags.guarded("bench.peers", lambda: _main(argv, peers))


def _main(argv: Sequence[str] | None, peers: Sequence[settings.Peer]) -> int:
    args = _parser().parse_args(argv)
    names = _names("--checkpoints", args.checkpoints, checkpoints.NAMES)
    case = _case(args, peers)
    compare.check_outputs(args)
    prompts = flags.prompts(args)
    lines = [
        line for name in names for line in run.measured(checkpoints.given(name), case, prompts)
    ]
    found = [line.json(args.threads) for line in lines]
    compare.write_json(args.json, found)
    if args.json != "-":
        print(report.render(found))
    return 0 if all(line.is_correct for line in lines) else 1


def _parser() -> argparse.ArgumentParser:
    parser = flags.Parser(prog="python -m bench.peers", description=__doc__.splitlines()[0])
    add = parser.add_argument
    known = ",".join(checkpoints.NAMES)
    add("--checkpoints", default=known, metavar="A,B", help="default: %(default)s")
    add("--peers", metavar="A,B", help=f"default: all of {', '.join(settings.NAMES)}")
    add("--dtypes", metavar="A,B", help="only these (ours: float32, bfloat16, int8)")
    add("--methods", default="auto", metavar="A,B", help="ours beside none (default: %(default)s)")
    add("--prompts", type=Path, metavar="F", help="JSON lines: prompt, question or turns")
    add("--limit", type=int, metavar="N", help="only the first N prompts of the file")
    add("--max-tokens", type=int, default=flags.MAX_TOKENS, metavar="N")
    add("--threads", type=int, default=usable_cores(), metavar="N", help="of every engine")
    flags.add_json_flag(parser)
    parser.set_defaults(prompt=None, prompt_file=None, trace=None)
    return parser


def _names(flag: str, text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise InvalidInputError(f"{flag}: expected of {', '.join(known)}, got {name!r}")
    return list(dict.fromkeys(names))


def _case(args: argparse.Namespace, peers: Sequence[settings.Peer]) -> run.Case:
    if args.max_tokens < 2:
        raise InvalidInputError(f"--max-tokens: expected at least 2, got {args.max_tokens}")
    if args.peers is not None:
        names = _names("--peers", args.peers, [peer.name for peer in peers])
        peers = [peer for peer in peers if peer.name in names]
    known = list(dict.fromkeys((*ours.DTYPES, *(d for peer in peers for d in peer.plain))))
    dtypes = known if args.dtypes is None else _names("--dtypes", args.dtypes, known)
    given = [methods.parse(text).text for text in methods.parse_list(args.methods)]
    return run.Case(peers, dtypes, given, args.threads, args.max_tokens)


if __name__ == "__main__":
    sys.exit(main())
