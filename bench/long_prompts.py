"""`python -m bench.long_prompts`: latency while a long prompt is fed, and in turns of a chat.

    python -m bench.long_prompts --target smollm2 --threads 2 --json -

Part `company`: several sequences decode, and then a long prompt arrives. The bench reports the
seconds between two outputs of a sequence, before the long prompt arrives and while it is fed. The
bench also times one piece of the long prompt.
Part `chat`: the bench reports the time to the first token of each turn, with and without prefix
reuse, and whether both runs generate the same tokens.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams, methods
from sbrt.methods import Method
from sbrt.serve.pair import Pair
from sbrt.tools import compare, flags, table

from .models.traffic import percentile

PIECE = 64  # number of rows of a prompt piece on the CPU
SEED = 11
WORDS = 20  # number of tokens that a user adds in a turn
ANSWER = 24  # number of tokens of an answer in the chat
ONE = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)


@dataclass
class Company:
    """The times of one method in one run of the part `company`, in seconds. quiet, fed: seconds
    between two outputs of a sequence, before the long prompt arrives and while it is fed."""

    quiet: list[float] = field(default_factory=list)
    fed: list[float] = field(default_factory=list)
    first: float = 0.0  # seconds from the arrival of the long prompt to its first token
    alone: float = 0.0  # seconds to the first token if no other sequence runs
    shorter: float = 0.0  # like `alone`, for the prompt without its last PIECE tokens


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("python -m bench.long_prompts", description=__doc__)
    flags.add_engine_flags(made)
    flags.add_size_flags(made)
    flags.add_json_flag(made)
    made.add_argument("--methods", default="none", metavar="A,B,...")
    made.add_argument("--long", type=int, default=800, help="tokens of the long prompt")
    made.add_argument("--company", type=int, default=7, help="sequences that decode meanwhile")
    made.add_argument("--turns", type=int, default=10, help="of the chat")
    made.add_argument("--runs", type=int, default=3)
    return made


def some_ids(count: int, vocab: int, seed: int) -> list[int]:
    """Return ids with no repetition that look-up could use: a fixed walk through the vocabulary."""
    return [1 + (seed * 7919 + i * 104_729) % (vocab - 2) for i in range(count)]


def play_company(engine: Engine, method: Method, args: argparse.Namespace, vocab: int) -> Company:
    """Decode `args.company` sequences, and add the long prompt after some tokens. Returns the
    measured times."""
    found, params = Company(), SamplingParams(temperature=0, max_tokens=4000, ignore_eos=True)
    long_prompt = some_ids(args.long, vocab, SEED)
    found.alone = _first_token(engine, method, long_prompt)
    found.shorter = _first_token(engine, method, long_prompt[: max(1, args.long - PIECE)])
    names = [f"{i}" for i in range(args.company)]
    for i, name in enumerate(names):
        engine.add_request(name, some_ids(8, vocab, i), params, method=method)
    last: dict[str, float] = {}
    collect(engine, last, [], 4 * args.company)  # until all of these sequences decode
    collect(engine, last, found.quiet, 40 * args.company)
    begin = time.perf_counter()
    engine.add_request("long", long_prompt[::-1], ONE, method=method)
    while "long" not in last:
        collect(engine, last, found.fed, 1)
    found.first = last["long"] - begin
    engine.abort_request(names)
    return found


def _first_token(engine: Engine, method: Method, prompt: list[int]) -> float:
    """Return the seconds to the first token when nothing else runs."""
    begin = time.perf_counter()
    engine.generate(prompt, ONE, method=method)
    return time.perf_counter() - begin


def collect(engine: Engine, last: dict[str, float], gaps: list[float], count: int) -> None:
    """Run engine steps until `count` outputs have arrived.

    last: the time of each request's last output, updated here. gaps: the seconds between two
    outputs of a request are appended here, except those of the long prompt's request.
    """
    while count > 0:
        for output in engine.step():
            now, name = time.perf_counter(), output.request_id
            if name in last and name != "long":
                gaps.append(now - last[name])
            last[name] = now
            count -= 1


def chat(engine: Engine, method: Method, turns: int, vocab: int) -> list[dict[str, Any]]:
    """Run a chat of `turns` turns.

    Returns for each turn the number of prompt tokens, how many of them were reused, the seconds to
    the first token, and the answer's ids.
    """
    params = SamplingParams(temperature=0, max_tokens=ANSWER, ignore_eos=True)
    text: list[int] = []
    lines = []
    for turn in range(turns):
        text += some_ids(WORDS, vocab, SEED + turn)
        begin, first, answer, reused = time.perf_counter(), 0.0, [], 0
        for output in engine.stream(text, params, method=method):
            first = first or time.perf_counter() - begin
            answer, reused = output.outputs[0].token_ids, output.num_cached_tokens or 0
        lines.append({"prompt": len(text), "reused": reused, "first": first, "ids": list(answer)})
        text += answer
    return lines


def _company_line(method: Method, runs: Sequence[Company]) -> dict[str, Any]:
    quiet = [gap for run in runs for gap in run.quiet]
    fed = [gap for run in runs for gap in run.fed]
    return {
        "part": "company",
        "method": method.text,
        "gap_p99_seconds": percentile(quiet, 0.99),
        "gap_p99_fed_seconds": percentile(fed, 0.99),
        "piece_seconds": statistics.median(run.alone - run.shorter for run in runs),
        "first_token_seconds": statistics.median(run.first for run in runs),
        "first_token_alone_seconds": statistics.median(run.alone for run in runs),
    }


def _chat_lines(method: Method, reuse: Any, fresh: Any) -> list[dict[str, Any]]:
    """Return one line for each turn. reuse, fresh: the chats with and without prefix reuse."""
    lines = []
    for turn, (with_it, without) in enumerate(
        zip(zip(*reuse, strict=True), zip(*fresh, strict=True), strict=True)
    ):
        seconds = [statistics.median(run["first"] for run in runs) for runs in (with_it, without)]
        lines.append(
            {
                "part": "chat",
                "method": method.text,
                "turn": turn + 1,
                "prompt": with_it[0]["prompt"],
                "reused": with_it[0]["reused"],
                "first_token_seconds": seconds[0],
                "first_token_fresh_seconds": seconds[1],
                "same": all(a["ids"] == b["ids"] for a, b in zip(with_it, without, strict=True)),
            }
        )
    return lines


def measure(
    config: EngineConfig, pair: Pair, given: Sequence[Method], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure all methods and return their lines. The chats with and without prefix reuse take
    turns."""
    seats = replace(config, max_num_seqs=args.company + 1)
    plain = replace(seats, enable_prefix_caching=False)
    lines: list[dict[str, Any]] = []
    with (
        Engine(seats, pair=pair, methods=given) as reusing,
        Engine(plain, pair=pair, methods=given) as fresh,
    ):
        vocab = pair.vocab
        for method in given:
            runs = [play_company(fresh, method, args, vocab) for _ in range(args.runs)]
            lines.append(_company_line(method, runs))
            both: tuple[list[Any], list[Any]] = ([], [])
            for _ in range(args.runs):
                for engine, found in zip((reusing, fresh), both, strict=True):
                    found.append(chat(engine, method, args.turns, vocab))
            lines += _chat_lines(method, *both)
    return lines


LEGEND = """\
p99, fed      ms between two outputs of a sequence, without and with the long prompt
piece         ms of the last piece of the long prompt, fed alone
first, alone  ms to the first token of the long prompt, with the others and alone
turn          of the chat; reused: tokens of its prompt that were not fed
reuse, fresh  ms to the first token with and without prefix reuse
same          yes if both gave the same tokens"""


def _shown(lines: Sequence[dict[str, Any]]) -> str:
    company = [("method", "p99", "fed", "piece", "first", "alone")]
    turns = [("method", "turn", "prompt", "reused", "reuse", "fresh", "same")]
    for line in lines:
        ms = {key: f"{1e3 * line[key]:.2f}" for key in line if key.endswith("_seconds")}
        if line["part"] == "company":
            company.append((line["method"], *ms.values()))
            continue
        counts = (str(line[key]) for key in ("turn", "prompt", "reused"))
        same = "yes" if line["same"] else "NO"
        turns.append((line["method"], *counts, *ms.values(), same))
    return "\n".join([*table.aligned(company), "", *table.aligned(turns), "", LEGEND])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 1 if prefix reuse changed a token, which is a
    defect."""
    return flags.guarded("bench.long_prompts", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    for name in ("long", "company", "turns", "runs"):
        if getattr(args, name) < 1:
            raise InvalidInputError(f"--{name}: expected at least 1, got {getattr(args, name)}")
    compare.check_outputs(args)
    given = flags.read_methods(args, methods.parse_list(args.methods))
    config, pair = flags.load(args, given)
    lines = measure(config, pair, given, args)
    compare.write_json(args.json, lines)
    compare.show(args.json, _shown(lines))
    return 0 if all(line.get("same", True) for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
