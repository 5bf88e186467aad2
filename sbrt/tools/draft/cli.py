"""The commands `sbrt draft make` and `sbrt draft eval`."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from ... import check, methods
from ...check import integer, number
from ...cores import usable_cores
from ...errors import InvalidInputError
from ...files import check_writable
from ...model import names
from ...model.checkpoint import open_checkpoint
from ...model.hub import located
from .. import compare, flags
from ..progress import Progress
from ..prompts import BUILT_IN, read_prompts
from . import make, outlook, verdict
from .answers import Job
from .labels import Answer, read_answers
from .shape import draft_config

MINUTES, VOCAB, COUNT = 60.0, 8192, 3000
DEVICES = ("cpu", "cuda")
SMALLEST_HEAD = 16  # minimum number of ids
MOST_MINUTES = 60 * 24 * 30
MOST_PROMPTS = 10**7  # maximum number of invented prompts
AGREEING = 96  # maximum number of held-out answers on which agreement is measured


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add make and eval with their flags."""
    commands = parser.add_subparsers(required=True, metavar="make|eval")
    _add_make(commands.add_parser("make", help="train a draft for a target, with torch"))
    _add_eval(commands.add_parser("eval", help="measure if a draft pays"))


def _add_make(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="D", help="the draft's folder, and its work")
    add("--minutes", type=float, default=MINUTES, help="minutes of training (default: %(default)g)")
    add("--layers", type=int, metavar="N", help="of the draft (default: the best prediction)")
    add("--width", type=int, metavar="W", help="of the draft (default: the best prediction)")
    add(
        "--vocab",
        type=int,
        default=VOCAB,
        metavar="K",
        help="ids of its head (default: %(default)s)",
    )
    add(
        "--count",
        type=int,
        default=COUNT,
        metavar="N",
        help="prompts to invent (default: %(default)s)",
    )
    add("--answers", type=Path, metavar="F", help="existing answers of the target")
    add("--held-out", type=Path, metavar="F", help="with --answers (default: every 8th of them)")
    add("--train-device", default="cpu", metavar="cpu|cuda", help="torch's device (default: cpu)")
    parser.set_defaults(run=_make)


def _add_eval(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    add = parser.add_argument
    add("--draft", required=True, metavar="MODEL|smollm2|demo", help="the draft to judge")
    add("--methods", metavar="A,B,...", help=f"default: {','.join(methods.METHODS)}")
    add(
        "--limit", type=int, default=verdict.CLOCKED, metavar="N",
        help="prompts that every method answers by the clock (default: %(default)s)",
    )  # fmt: skip
    flags.add_json_flag(parser)
    parser.set_defaults(run=_eval)


def _add_target(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--target", required=True, metavar="MODEL|smollm2", help="folder, GGUF file or hub name")
    add(
        "--prompts",
        type=Path,
        metavar="F",
        help="JSON lines: prompt, question or turns; each becomes a user's message where the "
        "target has a chat template (make: every 8th is held out)",
    )
    add("--threads", type=int, default=usable_cores(), metavar="N", help="default: %(default)s")


def _make(args: argparse.Namespace) -> int:
    require_torch()
    _check_make(args)
    target = open_checkpoint(_target(args))
    vocab = min(args.vocab, target.config.vocab)
    prompts = None if args.prompts is None else read_prompts(args.prompts)
    layers, width = make.kept_shape(args.out)  # a resumed run keeps its sizes
    layers = layers if args.layers is None else args.layers
    width = width if args.width is None else args.width
    sizes = outlook.candidates(target.config, layers, width)
    for size in sizes:
        draft_config(target.config, *size, vocab)
    with closing(Progress("measuring")) as bar:
        found = outlook.outlooks(
            target.folder, target.config, sizes, vocab, args.threads, bar.update
        )
    make.say(outlook.text(found))
    config = draft_config(target.config, found[0].layers, found[0].width, vocab)
    plan = make.Plan(
        target, args.out, config, args.minutes, prompts, args.count, args.threads,
        args.train_device, args.answers, args.held_out,
    )  # fmt: skip
    make.open_work(plan)
    make.make_answers(plan)
    pair = make.load_target(plan)
    data = make.make_data(plan, pair)
    make.train(plan, pair, data)
    judged = _judged(target.folder, args.out, data.held_out, verdict.usual_methods(), args.threads)
    print(judged.text())
    return compare.verdict(judged.clock)


def _check_make(args: argparse.Namespace) -> None:
    """Raise InvalidInputError if a flag of `make` is bad, naming the flag."""
    number("--minutes", args.minutes, 0, MOST_MINUTES)
    if args.minutes <= 0:
        raise InvalidInputError(f"--minutes: expected more than 0, got {args.minutes:g}")
    integer("--count", args.count, 1, MOST_PROMPTS)
    integer("--threads", args.threads, 1)
    integer("--vocab", args.vocab, SMALLEST_HEAD)
    check.one_of("--train-device", args.train_device, DEVICES)
    if args.train_device == "cuda":
        check_cuda()
    if args.held_out is not None and args.answers is None:
        raise InvalidInputError("--held-out: expected --answers next to it, got none")
    if args.answers is not None and args.prompts is not None:
        raise InvalidInputError("--answers: expected no --prompts next to it")


def _eval(args: argparse.Namespace) -> int:
    check_writable("--json", args.json)
    integer("--threads", args.threads, 1)
    integer("--limit", args.limit, 1)
    given = verdict.usual_methods()
    if args.methods is not None:
        given = [methods.parse(text) for text in methods.parse_list(args.methods)]
    if not any(method.needs_draft for method in given):
        raise InvalidInputError("--methods: expected one that needs a draft, got none")
    folder, _ = names.draft_of(args.draft)
    if folder is None:
        raise InvalidInputError(f"--draft: expected a folder or file, got {args.draft}")
    draft = located(folder)
    target = _target(args)
    held_out = _held_out(args, target, draft)
    judged = _judged(target, draft, held_out, given, args.threads, args.limit)
    compare.write_json(args.json, [judged.json()])
    compare.show(args.json, judged.text())
    return compare.verdict(judged.clock)


def _judged(
    target: Path,
    draft: Path,
    held_out: list[Answer],
    given: list[methods.Method],
    threads: int,
    clocked: int = verdict.CLOCKED,
) -> verdict.Verdict:
    config, pair = verdict.pair_of(target, draft, given, threads)
    step = max(1, len(held_out) // AGREEING)
    with closing(Progress("judging")) as bar:
        return verdict.judge(config, pair, given, held_out[::step], bar.update, clocked)


def _held_out(args: argparse.Namespace, target: Path, draft: Path) -> list[Answer]:
    """Return answers to the prompts of --prompts, if given. Otherwise return the held-out answers
    of `make`; if there are none, answers to the built-in prompts."""
    kept = draft / "work" / "held-out.jsonl"
    if args.prompts is None and kept.is_file() and make.is_work_of(draft, open_checkpoint(target)):
        return read_answers(kept)
    texts = BUILT_IN if args.prompts is None else read_prompts(args.prompts)
    jobs = [Job("prompts", i, text) for i, text in enumerate(texts)]
    return make.answers_to(jobs, target, args.threads)


def _target(args: argparse.Namespace) -> Path:
    return located(names.target_folder(args.target))


def require_torch() -> None:
    """Raise InvalidInputError if torch is missing."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise InvalidInputError(
            "draft make: expected torch (pip install 'sbrt[draft]'), found none"
        ) from None


def check_cuda() -> None:
    """Raise InvalidInputError if torch finds no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        raise InvalidInputError("--train-device: expected a device that torch sees, found none")
