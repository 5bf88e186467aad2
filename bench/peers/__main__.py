"""`python -m bench.peers`: compares sbrt with other engines on the same weights and prompts.

    python -m bench.peers --checkpoints m37,demo --prompts F --limit 8 --max-tokens 128 --json OUT
    python -m bench.peers --target FILE.gguf --methods lookup,auto --chatml --prompts F

Every peer (another engine) runs in its own process and environment (`make peers`), with as many
threads as sbrt. Decoding is greedy and always continues to max_tokens. Times leave out prefill and
warm-up. The engines take turns after each prompt. Figures are medians over prompts.

--concurrency N also measures batches of N prompts. Our engine then has N seats; llama.cpp has N
sequences in one llama_batch. Engines that do not fit in memory together are measured one after
another. An engine that does not fit alone is refused.

A line of the table is one engine in one dtype and mode. If its answers are incorrect (Line.json),
it has no figures. A checkpoint without a draft (m37, m2) has no lines that need a draft.

--target takes the user's own models. sbrt and llama.cpp read the same weights from a GGUF file.
Engines that cannot read GGUF files are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench.models import checkpoints
from bench.peers import ours, report, run, settings
from sbrt import InvalidInputError, check, methods
from sbrt._core import MAX_SEATS
from sbrt.cores import usable_cores
from sbrt.tools import compare, flags

CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def main(argv: Sequence[str] | None = None, peers: Sequence[settings.Peer] = settings.PEERS) -> int:
    """Run the command; returns its exit code: 0, 1 after a defect, 2 for bad input."""
    return flags.guarded("bench.peers", lambda: _main(argv, peers))


def _main(argv: Sequence[str] | None, peers: Sequence[settings.Peer]) -> int:
    args = _parser().parse_args(argv)
    peers = _peers(args, peers)
    models = _models(args)
    case = _case(args, peers)
    compare.check_outputs(args)
    prompts = flags.prompts(args)
    prompts = [CHATML.format(text) for text in prompts] if args.chatml else prompts
    lines = [line for model in models for line in run.measured(model(), case, prompts)]
    found = [line.json(args.threads) for line in lines]
    compare.write_json(args.json, found)
    if args.json != "-":
        print(report.render(found))
    return 0 if all(line.is_correct for line in lines) else 1


def _parser() -> argparse.ArgumentParser:
    parser = flags.Parser(prog="python -m bench.peers", description=__doc__.splitlines()[0])
    add = parser.add_argument
    known, usual = (",".join(names) for names in (checkpoints.NAMES, checkpoints.USUAL))
    add("--checkpoints", metavar="A,B", help=f"of {known} (default: {usual})")
    add("--target", type=Path, nargs="+", metavar="MODEL", help="GGUF files or folders instead")
    add("--draft", type=Path, metavar="MODEL", help="the draft of every --target")
    add("--peers", metavar="A,B", help=f"default: all of {', '.join(settings.NAMES)}")
    add("--dtypes", metavar="A,B", help=f"only these (ours: {', '.join(ours.DTYPES)}, gguf, ...)")
    add(
        "--methods",
        default="auto",
        metavar="A,B",
        help="our methods, in addition to none (default: %(default)s)",
    )
    add("--prompts", type=Path, metavar="F", help="JSON lines: prompt, question or turns")
    add("--chatml", action="store_true", help="each prompt as a user's turn, as SmolLM2 has them")
    add("--limit", type=int, metavar="N", help="only the first N prompts of the file")
    add("--max-tokens", type=int, default=flags.MAX_TOKENS, metavar="N")
    add("--concurrency", type=int, metavar="N", help="also decode N prompts at once")
    add("--threads", type=int, default=usable_cores(), metavar="N", help="of every engine")
    flags.add_json_flag(parser)
    parser.set_defaults(prompt=None, prompt_file=None, trace=None)
    return parser


def _names(flag: str, text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise InvalidInputError(f"{flag}: expected one of {', '.join(known)}, got {name!r}")
    return list(dict.fromkeys(names))


def _models(args: argparse.Namespace) -> list[Callable[[], checkpoints.Given]]:
    """Return one function per checkpoint of the flags, in order. A function writes or opens its
    checkpoint, and returns it.

    Raises InvalidInputError for flags that contradict each other.
    """
    if args.target is None:
        if args.draft is not None:
            raise InvalidInputError("--draft: expected --target with it, got none")
        given = ",".join(checkpoints.USUAL) if args.checkpoints is None else args.checkpoints
        names = _names("--checkpoints", given, checkpoints.NAMES)
        return [partial(checkpoints.given, name) for name in names]
    if args.checkpoints is not None:
        raise InvalidInputError("models: expected --checkpoints or --target, got both")
    return [partial(checkpoints.of_models, target, args.draft) for target in args.target]


def _peers(args: argparse.Namespace, peers: Sequence[settings.Peer]) -> list[settings.Peer]:
    if args.peers is None:
        return list(peers)
    names = _names("--peers", args.peers, [peer.name for peer in peers])
    return [peer for peer in peers if peer.name in names]


def _case(args: argparse.Namespace, peers: Sequence[settings.Peer]) -> run.Case:
    if args.max_tokens < 2:
        raise InvalidInputError(f"--max-tokens: expected at least 2, got {args.max_tokens}")
    if args.concurrency is not None:
        check.integer("--concurrency", args.concurrency, 2, MAX_SEATS)
    theirs = (dtype for peer in peers for dtype in peer.plain)
    known = list(dict.fromkeys((*ours.DTYPES, *ours.FILE_DTYPES, *theirs)))
    dtypes = None if args.dtypes is None else _names("--dtypes", args.dtypes, known)
    given = [methods.parse(text).text for text in methods.parse_list(args.methods)]
    return run.Case(peers, dtypes, given, args.threads, args.max_tokens, args.concurrency)


if __name__ == "__main__":
    sys.exit(main())
