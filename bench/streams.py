"""Compares the speed of Engine.stream, read part by part, with that of Engine.generate."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from sbrt.engine import Engine
from sbrt.methods import Method
from sbrt.outputs import RequestOutput, ratio
from sbrt.sampling import SamplingParams
from sbrt.tools import compare, flags, table
from sbrt.tools.measure import WARM_TOKENS, fitting

COLUMNS = ("method", "generate", "stream", "ratio", "best", "outputs", "same")
LEGEND = """\
generate, stream  tokens returned per second, median of the answers, prefill left out
ratio             stream over generate, median of the pairs
best              the fastest stream over the fastest generate, median of the prompts
outputs           of a stream, per token
same              yes if every stream returned the tokens of generate"""


@dataclass
class Pairs:
    """Figures of one method. A pair is the answers of `generate` and `stream` to one prompt.

    whole, streamed: tokens/s of generate and of stream, one list per prompt. outputs, tokens:
    number of outputs and of tokens in all streams.
    """

    method: Method
    whole: list[list[float]] = field(default_factory=list)
    streamed: list[list[float]] = field(default_factory=list)
    outputs: int = 0
    tokens: int = 0
    is_same: bool = True

    def line(self) -> dict[str, Any]:
        """Return the method's JSON object. `ratio` and `best_ratio` divide the speed of stream by
        the speed of generate."""
        pairs = [
            ratio(streamed, whole)
            for both in zip(self.streamed, self.whole, strict=True)
            for streamed, whole in zip(*both, strict=True)
        ]
        best = [ratio(max(s), max(w)) for s, w in zip(self.streamed, self.whole, strict=True)]
        return {
            "method": self.method.text,
            "prompts": len(self.whole),
            "generate_tokens_per_second": statistics.median(chain.from_iterable(self.whole)),
            "stream_tokens_per_second": statistics.median(chain.from_iterable(self.streamed)),
            "ratio": statistics.median(pairs),
            "best_ratio": statistics.median(best),
            "outputs_per_token": ratio(self.outputs, self.tokens),
            "identical": self.is_same,
        }


def run(args: argparse.Namespace) -> int:
    """Run the bench; returns 0, or 1 if a stream's tokens differ from generate's, which is a
    defect."""
    compare.check_outputs(args)
    given = flags.read_methods(args, compare.method_names(args))
    config, pair = flags.load(args, given)
    with Engine(config, pair=pair, methods=given) as engine:
        lines = [pairs.line() for pairs in measure(engine, given, flags.prompts(args), args)]
    for line in lines:
        line |= {"threads": engine.num_threads, "device": config.device}
    compare.write_json(args.json, lines)
    compare.show(args.json, "\n".join([*table.aligned([COLUMNS, *map(_row, lines)]), "", LEGEND]))
    wrong = [line["method"] for line in lines if not line["identical"]]
    if wrong:
        print(f"tokens of a stream differ from generate's: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def measure(
    engine: Engine, given: Sequence[Method], prompts: Sequence[str], args: argparse.Namespace
) -> list[Pairs]:
    """Run all methods on each prompt. In turn, `stream` or `generate` runs first."""
    params = flags.sampling(args)
    found = [Pairs(method) for method in given]
    warm = SamplingParams(temperature=0, max_tokens=WARM_TOKENS)
    for at, ids in enumerate(fitting(engine, prompts, params)):
        for pairs in found:
            if at == 0:
                engine.generate(ids, warm, method=pairs.method)
            pairs.whole.append([])
            pairs.streamed.append([])
            for turn in range(args.stream):
                _add(pairs, engine, ids, params, turn)
    return found


def _add(pairs: Pairs, engine: Engine, ids: list[int], params: SamplingParams, turn: int) -> None:
    answers: dict[bool, list[RequestOutput]] = {}
    for streams in (False, True) if turn % 2 else (True, False):
        begin = time.perf_counter()
        if streams:
            answers[streams] = list(engine.stream(ids, params, method=pairs.method))
        else:
            answers[streams] = engine.generate(ids, params, method=pairs.method)
        seconds, last = time.perf_counter() - begin, answers[streams][-1]
        prefill = last.metrics.prefill_seconds if last.metrics else 0.0
        rates = (pairs.streamed if streams else pairs.whole)[-1]
        rates.append(ratio(len(last.outputs[0].token_ids), seconds - prefill))
    whole, streamed = (answers[key][-1].outputs[0].token_ids for key in (False, True))
    pairs.outputs += len(answers[True])
    pairs.tokens += len(streamed)
    # With rejection sampling, tokens depend on which methods `auto` selects.
    if not pairs.method.rejection:
        pairs.is_same &= whole == streamed


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    return (
        line["method"],
        f"{line['generate_tokens_per_second']:.1f}",
        f"{line['stream_tokens_per_second']:.1f}",
        f"{line['ratio']:.3f}",
        f"{line['best_ratio']:.3f}",
        f"{line['outputs_per_token']:.2f}",
        "yes" if line["identical"] else "NO",
    )
