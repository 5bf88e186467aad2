"""`python -m bench.gpu.assisted` compares this engine's speed with transformers' generation.

    python -m bench.gpu.assisted [--pair demo-1g] [--prompts 4] [--max-tokens 64] [--json OUT]

Four programs decode greedily, in bfloat16, on one device: transformers alone, transformers with
`assistant_model`, this engine by `none`, and this engine by `specbranch`. Tokens/s is the number of
generated tokens divided by the seconds, prefill included.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from sbrt import Engine, SamplingParams
from sbrt.errors import EngineError, InvalidInputError
from sbrt.model.demo_pair import demo_folder
from sbrt.tools import flags

from ..models import pairs
from .device import expect_cuda

OURS = ("none", "specbranch")
Answer = Callable[[list[int]], int]  # maps a prompt's ids to the number of generated tokens


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return flags.guarded("bench.gpu.assisted", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    if args.device.startswith("cuda"):
        expect_cuda()
    config = pairs.engine_config(args.pair, args.device, OURS[1], dtype="bfloat16")
    lines = []
    with Engine(config, methods=OURS[:1]) as engine:
        text = pairs.prompts_of(args.pair)
        prompts = [engine.encode(str(text(i))) for i in range(args.prompts)]
        for method in OURS:
            lines.append(timed(f"sbrt {method}", prompts, _ours(engine, method, args)))
    for name, answer in _theirs(Path(config.model), args):
        lines.append(timed(name, prompts, answer))
    if args.json:
        Path(args.json).write_text(json.dumps({"pair": args.pair, "lines": lines}, indent=2) + "\n")
    return 0


def timed(name: str, prompts: Sequence[list[int]], answer: Answer) -> dict[str, Any]:
    """Generate an answer to each prompt. Print and return the median, least and greatest tokens/s.

    Before the measurement, the first prompt runs once to warm up.
    """
    answer(prompts[0])
    rates = []
    for ids in prompts:
        begin = time.perf_counter()
        tokens = answer(ids)
        rates.append(tokens / (time.perf_counter() - begin))
    line = {"name": name, "tokens_per_second": median(rates), "spread": [min(rates), max(rates)]}
    print(f"{name}: {line['tokens_per_second']:.1f} tokens/s ({min(rates):.1f}-{max(rates):.1f})")
    return line


def _ours(engine: Engine, method: str, args: argparse.Namespace) -> Answer:
    params = SamplingParams(temperature=0, max_tokens=args.max_tokens, ignore_eos=True)

    def answer(ids: list[int]) -> int:
        [output] = engine.generate(ids, params, method=method)
        return len(output.outputs[0].token_ids)

    return answer


def _theirs(folder: Path, args: argparse.Namespace) -> list[tuple[str, Answer]]:
    """Return two pairs (name, function that generates): transformers without and with the draft.

    Raises EngineError if transformers is not installed.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise EngineError(f"transformers: expected it installed, found no {error.name}") from None

    def load(path: Path) -> Any:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.bfloat16, local_files_only=True, use_safetensors=True
        )
        model.generation_config.eos_token_id = None  # so that generation continues to max_tokens
        return model.eval().to(args.device)

    target, draft = load(folder), load(demo_folder("draft"))

    def answer(**more: Any) -> Answer:
        @torch.inference_mode()
        def call(ids: list[int]) -> int:
            prompt = torch.tensor([ids], device=args.device)
            found = target.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0,
                max_new_tokens=args.max_tokens, **more,
            )  # fmt: skip
            return int(found.shape[1]) - len(ids)

        return call

    return [("transformers", answer()), ("transformers assisted", answer(assistant_model=draft))]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser(prog="python -m bench.gpu.assisted", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", default="cuda", metavar="cuda|cpu")
    add("--pair", default=pairs.INFLATED, metavar="demo|demo-1g")
    add("--prompts", type=int, default=4, metavar="N")
    add("--max-tokens", type=int, default=64, metavar="N")
    add("--json", metavar="OUT", help="also into this file")
    args = parser.parse_args(argv)
    if args.pair in pairs.MODELS:
        raise InvalidInputError(f"--pair: expected demo or demo-1g, got {args.pair}")
    return args


if __name__ == "__main__":
    sys.exit(main())
