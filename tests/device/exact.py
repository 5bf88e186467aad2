"""`python -m tests.device.exact`: every method answers like plain decoding on the same device.

python -m tests.device.exact [--pair demo] [--methods A,B] [--prompts 200] [--max-tokens 128]
    [--temperature 0] [--top-p 1] [--top-k 0] [--together 1] [--dtype auto] [--eager]
    [--seconds 400] [--logprobs N] [--bad-words A,B] [--reuse] [--json OUT]

For each prompt the program compares the tokens of every method with those of `none`. --together N:
N prompts share the rounds of each method, and `none` answers them one by one. --logprobs: log-probs
of answer and prompt must be the same, too. Results are kept in OUT. A call that runs out of time
ends with 75, and the next call resumes if source, device and flags are the same. The program ends
with 1 if a token differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from bench.gpu.device import expect_cuda
from bench.models import pairs
from sbrt import Engine, SamplingParams
from sbrt.errors import EngineError, InvalidInputError
from sbrt.files import write_file
from sbrt.methods import parse_list
from sbrt.outputs import CompletionOutput
from sbrt.tools import flags

from .steps import UNFINISHED, source_hash

METHODS = "draft_model,lookup,pearl,specbranch,specbranch:on_miss=serial,tree:nodes=15"
SAVED_EVERY = 10.0  # seconds between two writes of OUT
SHOWN = 5  # number of wrong answers that are shown


class Asked(NamedTuple):
    """An answer, the log-probs of its prompt, the seconds of decoding, and how many tokens of the
    prompt reused KV."""

    answer: CompletionOutput
    of_prompt: Any
    seconds: float
    reused: int


@dataclass
class Found:
    """Results for the prompts [0, done): wrong answers, and sums of each method's figures."""

    done: int = 0
    wrong: list[dict[str, Any]] = field(default_factory=list)
    methods: dict[str, dict[str, float]] = field(default_factory=dict)

    def count(self, method: str, asked: Asked) -> None:
        """Count one answer."""
        spec = asked.answer.spec_decode_metrics or {}
        start = {"tokens": 0, "rounds": 0, "hits": 0, "seconds": 0, "reused": 0}
        line = self.methods.setdefault(method, start)
        line["tokens"] += len(asked.answer.token_ids)
        line["rounds"] += spec.get("num_spec_steps", 0)
        line["hits"] += spec.get("num_branch_hits", 0)
        line["seconds"] += asked.seconds
        line["reused"] += asked.reused


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; returns 0 if all tokens agree, 1 if one differs, 75 if the time ran out first."""
    return flags.guarded("tests.device.exact", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    end = time.monotonic() + args.seconds
    if args.device.startswith("cuda"):
        expect_cuda()
    names = parse_list(args.methods)
    key = {name: value for name, value in vars(args).items() if name not in ("json", "seconds")}
    key |= {"source": source_hash()}
    out = Path(args.json) if args.json else None
    found = earlier(out, key)
    if found.done < args.prompts:
        with _engine(args, names) as engine:
            compare(engine, names, args, found, end, lambda f: save(out, key, f))
    save(out, key, found)
    return tell(found, names, args.prompts)


def _engine(args: argparse.Namespace, names: Sequence[str]) -> Engine:
    config = pairs.engine_config(
        args.pair, args.device, names[0], dtype=args.dtype, enforce_eager=args.eager,
        max_num_seqs=args.together, enable_prefix_caching=args.reuse,
    )  # fmt: skip
    return Engine(config, pair=pairs.pair_of(args.pair, config), methods=["none", *names[1:]])


def compare(
    engine: Engine,
    names: Sequence[str],
    args: argparse.Namespace,
    found: Found,
    end: float,
    keep: Callable[[Found], None],
) -> None:
    """Compare the remaining prompts until `end`, a time of time.monotonic()."""
    saved = time.monotonic()
    while found.done < args.prompts and time.monotonic() < end:
        last = min(args.prompts, found.done + args.together)
        compare_some(engine, names, args, found, range(found.done, last))
        found.done = last
        if time.monotonic() > saved + SAVED_EVERY:
            keep(found)
            saved = time.monotonic()


def compare_some(
    engine: Engine, names: Sequence[str], args: argparse.Namespace, found: Found, some: range
) -> None:
    """Run the prompts with the indices `some` in the same rounds, by every method, and compare the
    tokens with those of `none`."""
    prompt = pairs.prompts_of(args.pair)
    given = [(prompt(i), params_of(args, i)) for i in some]
    plain: list[Asked] = []
    if args.together > 1:
        plain = [answer for one in given for answer in ask(engine, [one])]
    for method in ("none", *names):
        answers = ask(engine, given, method)
        plain = plain or answers
        for i, got, want in zip(some, answers, plain, strict=True):
            found.count(method, got)
            tokens, expected = list(got.answer.token_ids), list(want.answer.token_ids)
            logprobs = (want.answer.logprobs, want.of_prompt)
            if tokens != expected or (got.answer.logprobs, got.of_prompt) != logprobs:
                found.wrong.append(difference(method, i, tokens, expected))


def params_of(args: argparse.Namespace, i: int) -> SamplingParams:
    """Return the sampling params of prompt `i`."""
    return replace(
        pairs.sampling_of(args, i),
        logprobs=args.logprobs,
        prompt_logprobs=args.logprobs,
        bad_words=args.bad_words.split(",") if args.bad_words else None,
    )


def ask(
    engine: Engine, given: Sequence[tuple[Any, SamplingParams]], method: str = "none"
) -> list[Asked]:
    """Answer all pairs (prompt, params) of `given` in the same rounds. Raises EngineError if a
    request fails."""
    prompts, params = ([one[i] for one in given] for i in range(2))
    if len(given) == 1:
        outputs = engine.generate(prompts[0], params[0], method=method)
    else:
        outputs = engine.generate(prompts, params, method=method)
    found = []
    for output in outputs:
        [answer] = output.outputs
        if answer.finish_reason == "error":
            raise EngineError(f"method {method}: {answer.stop_reason}")
        of_prompt = output.prompt_logprobs and list(output.prompt_logprobs)
        seconds = output.metrics.decode_seconds if output.metrics else 0.0
        found.append(Asked(answer, of_prompt, seconds, output.num_cached_tokens or 0))
    return found


def difference(method: str, prompt: int, got: list[int], plain: list[int]) -> dict[str, Any]:
    """Return a JSON object with the first place where the tokens `got` differ from those of plain
    decoding."""
    differs = (i for i, (a, b) in enumerate(zip(got, plain, strict=False)) if a != b)
    shared = next(differs, min(len(got), len(plain)))
    return {
        "method": method,
        "prompt": prompt,
        "at": shared,
        "got": got[shared : shared + 1],
        "expected": plain[shared : shared + 1],
    }


def earlier(out: Path | None, key: dict[str, Any]) -> Found:
    """Return the results that an earlier call stored in `out` under the same key, or empty
    results."""
    try:
        kept = json.loads(out.read_text()) if out else {}
    except (OSError, ValueError):
        kept = {}
    if not isinstance(kept, dict) or kept.get("key") != key:
        return Found()
    return Found(kept["done"], kept["wrong"], kept["methods"])


def save(out: Path | None, key: dict[str, Any], found: Found) -> None:
    """Write the results to `out`, which is replaced as a whole. Raises OSError."""
    if out:
        text = json.dumps({"key": key} | vars(found), indent=2)
        write_file(out, f"{text}\n".encode())


def tell(found: Found, names: Sequence[str], wanted: int) -> int:
    """Print the results; return the exit code. wanted: number of prompts to compare."""
    for method, line in found.methods.items():
        tokens, rounds = line["tokens"], max(1, line["rounds"])
        print(
            f"{method}: {tokens} tokens, {tokens / rounds:.2f} a round, {line['hits']} hits, "
            f"{1e6 * line['seconds'] / rounds:.0f} us a round, {line['reused']} tokens reused"
        )
    for wrong in found.wrong[:SHOWN]:
        print(
            f"WRONG: {wrong['method']}, prompt {wrong['prompt']}: token {wrong['at']} is "
            f"{wrong['got']}, of none {wrong['expected']} ({len(found.wrong)} answers are wrong)"
        )
    print(f"{found.done} of {wanted} prompts by {', '.join(names)}")
    if found.wrong:
        return 1
    return 0 if found.done >= wanted else UNFINISHED


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser(prog="python -m tests.device.exact", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", default="cuda", metavar="cuda|cpu")
    add("--pair", default="demo", metavar="|".join(pairs.NAMES))
    add("--methods", default=METHODS, metavar="A,B,...")
    add("--prompts", type=int, default=200, metavar="N")
    add("--max-tokens", type=int, default=128, metavar="N")
    pairs.add_sampling(parser)
    add("--together", type=int, default=1, metavar="N", help="prompts that share rounds")
    add("--logprobs", type=int, metavar="N", help="log-probs of answers and prompts, compared too")
    add("--bad-words", metavar="A,B,...", help="words that no answer may have")
    add(
        "--reuse", action="store_true", help="prompts reuse KV (EngineConfig.enable_prefix_caching)"
    )
    add("--dtype", default="auto", metavar="D", help="storage of the demo pair's weights")
    add("--eager", action="store_true", help="without CUDA graphs (EngineConfig.enforce_eager)")
    add("--seconds", type=float, default=400.0, help="then it wants another turn (default: 400)")
    add("--json", metavar="OUT", help="figures, and what is done")
    args = parser.parse_args(argv)
    for name in ("prompts", "max_tokens", "together"):
        if getattr(args, name) < 1:
            flag = name.replace("_", "-")
            raise InvalidInputError(f"--{flag}: expected at least 1, got {getattr(args, name)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
