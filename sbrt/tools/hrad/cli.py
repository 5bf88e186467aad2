"""The commands `sbrt hrad collect`, `sbrt hrad train` and `sbrt hrad eval`."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

from ... import methods
from ...check import integer, number
from ...engine import Engine
from ...errors import InvalidInputError
from ...files import check_writable
from ...model import hrad
from ...sampling import MAX_SEED
from .. import compare, flags
from ..costs import read_costs
from ..measure import Bench
from ..progress import Phases, Progress
from ..prompts import BUILT_IN, read_prompts
from ..simulate import Simulator, Sweep
from . import data as hrad_data
from . import eval as hrad_eval
from . import train as hrad_train

OWN_GAMMA = "c=gamma+1"
DROP_COST = "odds above which 'nothing is accepted' is predicted (default: 1)"
KEEP_COST = "odds above which 'all is accepted' is predicted (default: 1)"


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add collect, train and eval with their flags."""
    commands = parser.add_subparsers(required=True, metavar="collect|train|eval")
    _add_collect(
        commands.add_parser("collect", help="run the pair without cutting chains, write samples")
    )
    _add_train(commands.add_parser("train", help="train a classifier on samples, with torch"))
    _add_eval(commands.add_parser("eval", help="measure a classifier's accuracy and speed"))


def _add_collect(parser: argparse.ArgumentParser) -> None:
    flags.add_pair_flags(parser)
    _add_prompts(parser, required=True)
    add = parser.add_argument
    add("--gamma", type=int, metavar="G", help=f"draft steps per burst (default: {methods.GAMMA})")
    add("--out", type=Path, required=True, metavar="X", help="file for the samples")
    parser.set_defaults(run=_collect, branches=methods.K_MAX)


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "samples",
        type=Path,
        nargs="+",
        metavar="X",
        help="samples of one pair (sbrt hrad collect)",
    )
    add("--out", type=Path, required=True, metavar="H", help="file for the classifier")
    add("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    add("--epochs", type=int, default=hrad_train.EPOCHS, metavar="N", help="default: %(default)s")
    add("--rate", type=float, default=hrad_train.RATE, help="learning rate (default: %(default)s)")
    add("--class-weights", action="store_true", help="give every class the same weight")
    add("--drop-cost", type=float, default=1.0, metavar="X", help=DROP_COST)
    add("--keep-cost", type=float, default=1.0, metavar="X", help=KEEP_COST)
    parser.set_defaults(run=_train)


def _add_eval(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("samples", type=Path, nargs="+", metavar="X", help="samples that sbrt hrad collect wrote")
    add("--hrad", required=True, metavar="H|demo|smollm2", help="file that sbrt hrad train wrote")
    flags.add_pair_flags(parser)
    _add_prompts(parser, required=False)
    add(
        "--simulate",
        nargs="?",
        const=OWN_GAMMA,
        metavar="c=8|NAME|COSTS.json",
        help="rollback and speed in simulated time, on prompts kept from training "
        "(without a value: c is gamma + 1)",
    )
    flags.add_json_flag(parser)
    parser.set_defaults(run=_eval, gamma=None, branches=methods.K_MAX)


def _add_prompts(parser: argparse.ArgumentParser, required: bool) -> None:
    add = parser.add_argument
    add(
        "--prompts",
        type=Path,
        required=required,
        metavar="F",
        help="JSON lines: prompt, question or turns",
    )
    add("--limit", type=int, metavar="N", help="only the first N prompts of the file")


def _collect(args: argparse.Namespace) -> int:
    check_writable("--out", args.out)
    gamma = methods.GAMMA if args.gamma is None else args.gamma
    method, params = hrad_data.uncut(gamma), flags.sampling(args)
    prompts = _prompts(args)
    target, draft = _folders(args)
    config, pair = flags.load(args, [method])
    origin = hrad.origin_of(gamma, target, draft, params.temperature)
    bar = Progress("collecting")
    try:
        with Engine(config, pair=pair, methods=[method], keep_features=True) as engine:
            samples, skipped = hrad_data.collect(engine, prompts, params, origin, bar.update)
    finally:
        bar.close()
    samples.save(args.out)
    if skipped:
        said = f"skipped {skipped} of {len(prompts)} prompts: they do not fit"
        print(said, file=sys.stderr)
    counts = hrad.described(hrad.counted(samples.labels))
    print(f"{len(samples.labels)} samples of {len(prompts) - skipped} prompts: {counts}")
    return 0


def _train(args: argparse.Namespace) -> int:
    check_writable("--out", args.out)
    plan = hrad_train.Plan(
        seed=integer("--seed", args.seed, 0, MAX_SEED),
        epochs=integer("--epochs", args.epochs, 1, 10_000),
        rate=number("--rate", args.rate, 0, 1),
        weighted=args.class_weights,
        drop_cost=number("--drop-cost", args.drop_cost, 1e-3, 1e3),
        keep_cost=number("--keep-cost", args.keep_cost, 1e-3, 1e3),
    )
    samples = _samples(args)
    print(f"{len(samples.labels)} samples: {hrad.described(hrad.counted(samples.labels))}")
    classifier, best = hrad_train.train(samples, args.out, plan, _say)
    classifier.save()
    print(f"kept epoch {best.number}: held out {_held_out(best)}")
    return 0


def _say(epoch: hrad_train.Epoch) -> None:
    print(f"epoch {epoch.number}: loss {epoch.loss:.4f}, held out {_held_out(epoch)}", flush=True)


def _held_out(epoch: hrad_train.Epoch) -> str:
    return f"loss {epoch.held_out_loss:.4f}, accuracy {epoch.held_out_accuracy:.1%}"


def _eval(args: argparse.Namespace) -> int:
    check_writable("--json", args.json)
    method = methods.parse("specbranch", hrad=args.hrad)
    classifier = hrad.load(hrad.locate(method, flags.draft_folder(args)))
    samples = _samples(args)
    judgement = hrad_eval.judge(classifier, samples)
    line, said = judgement.line(), [judgement.text()]
    identical = True
    if args.simulate is not None:
        worth = _weigh(args, classifier, samples)
        line |= {"simulated": worth.lines()}
        said += ["", worth.text()]
        identical = compare.verdict(worth.report) == 0
    compare.write_json(args.json, [line])
    compare.show(args.json, "\n".join(said))
    return 0 if identical else 1


def _weigh(
    args: argparse.Namespace, classifier: hrad.Classifier, samples: hrad_data.Samples
) -> hrad_eval.Worth:
    gamma = classifier.origin.gamma
    model = read_costs(f"c={gamma + 1}" if args.simulate == OWN_GAMMA else args.simulate)
    given = hrad_eval.settings(classifier)
    prompts = hrad_eval.unseen(_prompts(args), classifier, samples)
    config, pair = flags.load(args, given)
    bar = Phases()
    try:
        with closing(Bench.open(config, pair, given, costs=model.costs())) as bench:
            sweep = Sweep(model.c, frozenset({"gamma"}))
            simulator = Simulator(bench, model, sweep, flags.sampling(args), bar.update)
            return hrad_eval.weigh(simulator, classifier, prompts)
    finally:
        bar.close()


def _samples(args: argparse.Namespace) -> hrad_data.Samples:
    return hrad_data.joined([hrad_data.load_samples(path) for path in args.samples])


def _prompts(args: argparse.Namespace) -> list[str]:
    if args.limit is not None:
        integer("--limit", args.limit, 1)
    if args.prompts is None:
        return list(BUILT_IN[: args.limit])
    return read_prompts(args.prompts, args.limit)


def _folders(args: argparse.Namespace) -> tuple[Path, Path]:
    draft = flags.draft_folder(args)
    if draft is None:
        raise InvalidInputError(
            f"hrad: expected a draft from a folder, got --draft {flags.draft_name(args)}"
        )
    return flags.target_folder(args), draft
