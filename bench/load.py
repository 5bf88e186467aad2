"""Measures methods with many requests in flight, for `bench.decode --concurrency` and `--rate`."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from sbrt import methods
from sbrt.config import EngineConfig
from sbrt.engine import Engine
from sbrt.errors import InvalidInputError
from sbrt.methods import Method
from sbrt.outputs import ratio
from sbrt.serve.pair import Pair
from sbrt.tools import compare, flags, table
from sbrt.tools.closed_loop import counts
from sbrt.tools.measure import WARM_TOKENS, fitting
from sbrt.tools.progress import Phases

from .models.traffic import Load, Played, Work, play

RUNS = 3
COLUMNS = (
    *("load", "method", "tokens/s", "best", "a request", "first p50", "p99"),
    *("token p50", "p99", "gap p99", "x none", "same"),
)
LEGEND = """\
load       requests in flight at any time, or requests that arrive per second (Poisson)
tokens/s   of all requests together, prefill included, median of the runs; best: of one run
a request  tokens/s of the median request, from its arrival to its last token
first      ms from a request's arrival to its first token
token      ms per token after the first output; tokens of an output share its gap
gap        ms between two outputs of a request
x none     tokens/s over that of none with one request at once, median of the runs
same       yes if every token equals that of plain decoding of the prompt alone"""


@dataclass
class Cell:
    """One method under one load, with all its runs so far."""

    load: Load
    method: Method
    runs: list[Played] = field(default_factory=list)
    is_same: bool = True

    def add(self, played: Played, expected: Sequence[Sequence[int]]) -> None:
        """Add a run. expected: the tokens that plain decoding generates for each prompt."""
        self.runs.append(played)
        self.is_same &= all(answer.agrees(expected[answer.prompt]) for answer in played.answers)

    def median(self, figure: Callable[[Played], float]) -> float:
        """Return the median over the runs of the value that `figure` returns for a run."""
        return statistics.median(map(figure, self.runs))

    def line(self, plain: Cell) -> dict[str, Any]:
        """Return the cell's JSON object. plain: the cell of `none` with one request at a time.

        Rates and percentiles are medians over the runs. The percentile of one run is over all its
        requests. requests: number of requests in one run. tokens, seconds: sums over all runs.
        """
        pairs = zip(self.runs, plain.runs, strict=True)
        return {
            "method": self.method.text,
            "concurrency": self.load.concurrency,
            "rate": self.load.rate,
            "runs": len(self.runs),
            "requests": len(self.runs[0].counted),
            "tokens": sum(played.tokens for played in self.runs),
            "seconds": sum(played.seconds for played in self.runs),
            "tokens_per_second": self.median(lambda played: played.rate),
            "best_tokens_per_second": max(played.rate for played in self.runs),
            "request_tokens_per_second": self.median(lambda played: played.request_rate),
            "first_token_p50_seconds": self.median(lambda played: played.first(0.5)),
            "first_token_p99_seconds": self.median(lambda played: played.first(0.99)),
            "inter_token_p50_seconds": self.median(lambda played: played.between_tokens(0.5)),
            "inter_token_p99_seconds": self.median(lambda played: played.between_tokens(0.99)),
            "output_gap_p50_seconds": self.median(lambda played: played.between_outputs(0.5)),
            "output_gap_p99_seconds": self.median(lambda played: played.between_outputs(0.99)),
            "speedup": statistics.median(ratio(a.rate, b.rate) for a, b in pairs),
            "identical_to_none": self.is_same,
        }


def loads(args: argparse.Namespace) -> list[Load]:
    """Return the loads of --concurrency, then of --rate. Raises InvalidInputError for a bad
    number."""
    closed = [] if args.concurrency is None else counts("--concurrency", args.concurrency)
    rates = [] if args.rate is None else args.rate.split(",")
    return [*(Load(concurrency=count) for count in closed),
            *(Load(rate=_rate(text)) for text in rates)]  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the command; returns 0, or 1 if a token differs from plain decoding of a prompt alone."""
    compare.check_outputs(args)
    wanted, runs = loads(args), RUNS if args.runs is None else args.runs
    given = flags.read_methods(args, compare.method_names(args))
    config, pair = flags.load(args, given)
    config = _fitted(config, wanted)
    work, expected = _alone(config, pair, args)
    most = max((load.concurrency or 1) for load in wanted)
    if most > len(work.prompts):
        raise InvalidInputError(
            f"--concurrency: expected at most one for each of {len(work.prompts)} prompts "
            f"that fit, got {most}"
        )
    cells = [Cell(load, method) for load in wanted for method in given]
    with Engine(config, pair=pair, methods=[*given, methods.parse("none")]) as engine:
        plain = measure(engine, cells, work, expected, runs)
    lines = [cell.line(plain) for cell in cells]
    for line, cell in zip(lines, cells, strict=True):
        line |= _of_engine(engine, cell.method)
    compare.write_json(args.json, lines)
    compare.show(args.json, _text(lines, cells, plain, engine))
    return _verdict([plain, *cells], not work.params.greedy)


def measure(
    engine: Engine, cells: Sequence[Cell], work: Work, expected: Sequence[Sequence[int]], runs: int
) -> Cell:
    """Run all cells in turn, `runs` times. Returns the baseline: `none`, one request at a time.

    If the baseline is not among the cells, it runs in addition. The order of the cells changes from
    turn to turn, because the first cell to run finds the caches cold and the clock high.
    """
    named = [c for c in cells if c.load.concurrency == 1 and c.method.name == "none"]
    plain = named[0] if named else Cell(Load(concurrency=1), methods.parse("none"))
    order = [plain, *(cell for cell in cells if cell is not plain)]
    with closing(Phases()) as bar:
        _warm_up(engine, order, work, bar)
        for turn in range(runs):
            at = turn * len(order) // runs
            for done, cell in enumerate([*order[at:], *order[:at]], start=turn * len(order)):
                what = f"{cell.method.text}, {cell.load.text}"
                bar.update("generating", done, runs * len(order), what)
                cell.add(play(engine, cell.method, cell.load, work), expected)
    return plain


def _warm_up(engine: Engine, cells: Sequence[Cell], work: Work, bar: Phases) -> None:
    """Generate a few tokens by each method with all seats taken."""
    params = replace(work.params, max_tokens=min(WARM_TOKENS, work.params.max_tokens or 1))
    short = replace(work, prompts=work.prompts[: engine.config.seats], params=params)
    used = {cell.method.text: cell.method for cell in cells}
    for done, method in enumerate(used.values()):
        bar.update("warming up", done, len(used), method.text)
        play(engine, method, Load(concurrency=engine.config.seats), short)


def _fitted(config: EngineConfig, wanted: Sequence[Load]) -> EngineConfig:
    """Return the config with enough seats for every load.

    The largest --concurrency needs one seat per request. For --rate there are at least as many
    seats as by default. Prefix reuse is off. Otherwise only the first method would compute the
    prompts' KV, because all methods get the same prompts.
    """
    closed = [load.concurrency for load in wanted if load.concurrency is not None]
    usual = [config.seats] if len(closed) < len(wanted) else []
    return replace(config, max_num_seqs=max(closed + usual), enable_prefix_caching=False)


def _alone(
    config: EngineConfig, pair: Pair, args: argparse.Namespace
) -> tuple[Work, list[list[int]]]:
    """Return the prompts that fit. Also return the tokens that plain decoding generates for each
    prompt when it runs alone."""
    params, prompts, none = flags.sampling(args), flags.prompts(args), methods.parse("none")
    with Engine(replace(config, max_num_seqs=1), pair=pair, methods=[none]) as engine:
        given = fitting(engine, prompts, params)
        answers = [engine.generate(ids, params, method=none)[0].outputs[0] for ids in given]
    if skipped := len(prompts) - len(given):
        print(f"skipped {skipped} of {len(prompts)} prompts: they do not fit", file=sys.stderr)
    return Work(given, params, args.seed), [answer.token_ids for answer in answers]


def _of_engine(engine: Engine, method: Method) -> dict[str, Any]:
    return {
        "max_num_seqs": engine.config.seats,
        "threads": engine.num_threads,
        "draft_threads": engine.draft_threads if method.drafts else 0,
        "dtype": engine.pair.dtype,
        "activation_dtype": engine.pair.activation_dtype,
        "device": engine.config.device,
        "options": dict(method.options),
    }


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise InvalidInputError(f"--rate: expected requests per second above 0, got {text!r}")
    return rate


def _text(
    lines: Sequence[dict[str, Any]], cells: Sequence[Cell], plain: Cell, engine: Engine
) -> str:
    shown = list(zip(lines, cells, strict=True))
    if not any(cell is plain for cell in cells):
        shown = [(plain.line(plain), plain), *shown]
    first = lines[0]
    title = ", ".join(
        [
            *(table.counted(first[name], name[:-1]) for name in ("requests", "runs")),
            f"{engine.pair.dtype} weights",
            table.counted(engine.num_threads, "thread"),
            table.counted(engine.config.seats, "seat"),
        ]
    )
    rows = [_row(line, cell) for line, cell in shown]
    return "\n".join([title, "", *table.aligned([COLUMNS, *rows]), "", LEGEND])


def _row(line: dict[str, Any], cell: Cell) -> tuple[str, ...]:
    times = ("first_token_p50", "first_token_p99", "inter_token_p50", "inter_token_p99")
    same = "yes" if cell.is_same else "no" if cell.method.rejection else "NO"
    return (
        cell.load.text,
        cell.method.text,
        f"{line['tokens_per_second']:.1f}",
        f"{line['best_tokens_per_second']:.1f}",
        f"{line['request_tokens_per_second']:.1f}",
        *(f"{1000 * line[f'{name}_seconds']:.2f}" for name in (*times, "output_gap_p99")),
        f"{line['speedup']:.2f}",
        same,
    )


def _verdict(cells: Sequence[Cell], sampled: bool) -> int:
    """Return exit code 0, or 1 after printing to stderr the cells whose tokens are wrong."""
    wrong = {
        f"{cell.method.text} ({cell.load.text})": None
        for cell in cells
        if not cell.is_same and not (sampled and cell.method.rejection)
    }
    if wrong:
        print(f"tokens differ from plain decoding alone: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0
