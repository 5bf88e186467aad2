"""`python -m bench.peers`: plain decoding here beside other engines, same checkpoint, same run.

    python -m bench.peers --target D --prompts F --limit 8 --max-tokens 128 --threads 2 --json

Greedy, max_tokens from every prompt whatever ends it. Correctness first: a peer whose ids differ
from ours gets no figures, unless they part where the peer's own two best logits are nearly equal.
Prefill is left out on both sides. Interleaved prompt by prompt; the medians are over prompts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbrt import Engine, InvalidInputError, SamplingParams, compare, demo_pair, flags
from sbrt.config import EngineConfig
from sbrt.outputs import ratio
from sbrt.pair import load_pair
from sbrt.progress import Progress

if TYPE_CHECKING:
    from bench.hf_peer import Answer

# Gap of a peer's two best logits, relative to the best, below which either is a right answer: what
# a forward's rounding can move. bfloat16 arithmetic keeps 8 bits; ours is always float32.
TIES = {"float32": 1e-4, "bfloat16": 2**-4}
WARM_TOKENS = 16


@dataclass
class Line:
    """One engine. rates: tokens/s of each prompt, prefill left out."""

    engine: str
    dtype: str
    run: Callable[[list[int], int], Answer]
    tokens: int = 0
    seconds: float = 0.0
    rates: list[float] = field(default_factory=list)
    different: int = 0  # prompts whose ids differ from ours
    ties: int = 0  # of them, those that part at a tie

    @property
    def is_correct(self) -> bool:
        return self.different == self.ties

    def add(self, answer: Answer, ours: list[int]) -> None:
        self.tokens += len(answer.ids)
        self.seconds += answer.seconds
        self.rates.append(ratio(answer.timed, answer.seconds))
        if answer.ids != ours:
            self.different += 1
            self.ties += answer.gap_at(first_difference(answer.ids, ours)) < TIES[self.dtype]

    def json(self, baseline: Line, threads: int) -> dict[str, Any]:
        shown = self.is_correct
        rate = statistics.median(self.rates) if shown else 0.0
        return {
            "engine": self.engine,
            "dtype": self.dtype,
            "threads": threads,
            "prompts": len(self.rates),
            "tokens": self.tokens,
            "seconds": self.seconds if shown else 0.0,
            "tokens_per_second": rate,
            "spread": [min(self.rates), max(self.rates)] if shown else [0.0, 0.0],
            "sbrt_is_faster_by": ratio(statistics.median(baseline.rates), rate),
            "prompts_that_differ": self.different,
            "of_them_at_ties": self.ties,
            "correct": shown,
        }


def first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    """The first index at which two lists differ, or the length of the shorter."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def main(argv: Sequence[str] | None = None) -> int:
    return flags.guarded("bench.peers", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    try:
        from bench.hf_peer import HfPeer
    except ImportError:
        raise InvalidInputError(
            "bench.peers: expected transformers and torch, found none; "
            "install them with pip install 'sbrt[bench]'"
        ) from None
    folder = demo_pair.demo_folder(demo_pair.TARGET) if args.target == "demo" else Path(args.target)
    config = EngineConfig(model=folder, dtype=args.dtype, num_threads=args.threads)
    pair = load_pair(config)
    with Engine(config, pair=pair) as engine:
        threads = engine.num_threads
        lines = [Line("sbrt", pair.dtype, _ours(engine))]
        for dtype in dict.fromkeys(("float32", pair.dtype)):
            peer = HfPeer(folder, dtype, threads, pair)
            lines.append(Line("transformers", dtype, peer.generate))
        prompts = _fitting(engine, flags.prompts(args), args.max_tokens)
        _run(lines, prompts, args.max_tokens)
    found = [line.json(lines[0], threads) for line in lines]
    compare.write_json(args.json, found)
    if args.json != "-":
        print("\n".join(_sentence(line) for line in found))
    return 0 if all(line.is_correct for line in lines if line.dtype == "float32") else 1


def _parser() -> argparse.ArgumentParser:
    parser = flags.Parser(prog="python -m bench.peers", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--target", default="demo", metavar="DIR|demo", help="Hugging Face folder")
    add("--prompts", type=Path, metavar="F", help="JSON lines: prompt, question or turns")
    add("--limit", type=int, metavar="N", help="only the first N prompts of the file")
    add("--max-tokens", type=int, default=flags.MAX_TOKENS, metavar="N")
    add("--threads", type=int, metavar="N", help="for every engine (default: all cores)")
    add("--dtype", choices=("float32", "bfloat16"), default="auto", help="storage of our weights")
    add("--json", nargs="?", const="-", metavar="OUT", help="to the file or, alone, to stdout")
    parser.set_defaults(prompt=None, prompt_file=None)
    return parser


def _ours(engine: Engine) -> Callable[[list[int], int], Answer]:
    from bench.hf_peer import Answer

    def run(ids: list[int], max_tokens: int) -> Answer:
        params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        output = engine.generate(ids, params, method="none")[0]
        tokens = output.outputs[0].token_ids
        seconds = output.metrics.decode_seconds if output.metrics else 0.0
        return Answer(tokens, seconds, timed=len(tokens), gaps=[])

    return run


def _fitting(engine: Engine, prompts: Sequence[str], max_tokens: int) -> list[list[int]]:
    room = engine.max_model_len - max_tokens
    found = [ids for ids in map(engine.encode, prompts) if len(ids) <= room]
    if len(found) < len(prompts):
        print(f"{len(prompts) - len(found)} prompts skipped: too long", file=sys.stderr)
    if not found:
        raise InvalidInputError(f"prompts: expected one of at most {room} tokens, got longer ones")
    return found


def _run(lines: Sequence[Line], prompts: Sequence[list[int]], max_tokens: int) -> None:
    """Every engine on every prompt; who goes first changes from prompt to prompt."""
    bar = Progress("generating")
    for line in lines:
        line.run(prompts[0], min(WARM_TOKENS, max_tokens))
    for done, ids in enumerate(prompts):
        at = done % len(lines)
        order = [*lines[at:], *lines[:at]]
        answers = {id(line): line.run(ids, max_tokens) for line in order}
        ours = answers[id(lines[0])].ids
        for line in lines:
            line.add(answers[id(line)], ours)
        bar.update(done + 1, len(prompts))
    bar.close()


def _sentence(line: dict[str, Any]) -> str:
    name = f"{line['engine']:12} {line['dtype']:8} {line['threads']} threads | "
    differ = f"{line['prompts_that_differ']} answers differ, {line['of_them_at_ties']} at ties"
    if not line["correct"]:
        return f"{name}no figure: {differ}"
    low, high = line["spread"]
    return (
        f"{name}{line['tokens_per_second']:7.1f} tokens/s (median of {line['prompts']} prompts, "
        f"{low:.1f} to {high:.1f}) | sbrt is {line['sbrt_is_faster_by']:.2f}x | {differ}"
    )


if __name__ == "__main__":
    sys.exit(main())
