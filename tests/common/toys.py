"""Engines over the toy pair: a target and a draft without weights, whose logits are a hash of the
prefix. Prompts and answers are lists of ids."""

from __future__ import annotations

from sbrt import Engine, EngineConfig, SamplingParams
from sbrt._core import Toy
from sbrt.methods import AUTO, METHODS
from sbrt.serve.pair import Pair

VOCAB = 32
PROMPT = [i * 7 % VOCAB for i in range(640)]  # prefill needs ten pieces
# For each kind of round, one policy of `EngineCore`.
POLICIES = {
    "none": {"gamma": 0},
    "draft_model": {"gamma": 4, "branches": 1, "serial": 1},
    "lookup": {"gamma": 0, "on_miss": 2, "burst": 4},
    "pearl": {"gamma": 4, "branches": 1},
    "specbranch": {"gamma": 4, "branches": 6, "adaptive": 1, "epsilon": 0.2},
    "hedge": {"gamma": 4, "branches": 8, "likely": True, "width": 2},
    "tree": {"gamma": 0, "on_miss": 1, "burst": 4, "burst_width": 3},
}


def untuned(methods):
    """Return the methods without `auto`, which runs measurements when an engine opens."""
    return tuple(method for method in methods if method != AUTO)


UNTUNED = untuned(METHODS)
GREEDY = SamplingParams(temperature=0, max_tokens=40)


def toy_engine(
    target: dict | None = None, draft: dict | None = None, methods=UNTUNED, **fields
) -> Engine:
    """Return an engine over the toy pair. Prompts and answers are lists of ids.

    If `auto` is among the methods, the engine measures for 0.2 s when it opens.
    """
    target_toy = Toy(**({"vocab": VOCAB, "seed": 3} | (target or {})))
    draft_toy = Toy(**({"vocab": VOCAB, "seed": 3, "noise16": 8} | (draft or {})))
    pair = Pair(target_toy, draft_toy, None, frozenset(), VOCAB, "float32")
    config = EngineConfig(
        model="toy",
        skip_tokenizer_init=True,
        speculative={"model": "toy", "method": "specbranch"},
        **({"num_threads": 2, "max_model_len": 4096} | fields),
    )
    return Engine(config, pair=pair, methods=methods)


def ids_of(output) -> list[int]:
    return output.outputs[0].token_ids


def answer(engine: Engine, prompt: list[int], params: SamplingParams = GREEDY, **more) -> list[int]:
    return ids_of(engine.generate(prompt, params, **more)[0])


def fresh(prompt: list[int], params: SamplingParams = GREEDY) -> list[int]:
    """Return the tokens of plain decoding by a new engine; computed once per prompt and params."""
    key = (tuple(prompt), repr(params))
    if key not in _FRESH:
        with toy_engine(methods=()) as engine:
            _FRESH[key] = answer(engine, prompt, params, method="none")
    return list(_FRESH[key])


_FRESH: dict[tuple, list[int]] = {}  # answers that `fresh` has computed
