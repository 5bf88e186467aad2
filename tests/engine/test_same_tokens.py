"""Contract under test: no draft, method, thread or schedule changes one token of the answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from sbrt import Engine, EngineConfig, SamplingParams
from sbrt.model.demo_pair import demo_folder, random_draft
from sbrt.serve.pair import load_pair
from sbrt.tools.prompts import BUILT_IN, read_prompts
from tests.common.toys import untuned

METHODS = (
    *("draft_model", "lookup", "adaedl", "tree", "pearl", "specbranch", "hedge", "auto"),
    "specbranch:epsilon=0,k_max=4,gamma=7,on_miss=serial",
    "hedge:F=8,tree=0,on_miss=lookup",
)
UNTUNED = untuned(METHODS)
# Numbers of tokens of an answer; FEW_TOKENS if few prompts are compared.
MAX_TOKENS, FEW_TOKENS = 64, 40
DRAFTS = ("draft", "poor", "random")  # the random draft misses in every round
THREADS = (1, 2)
# (draft, number of threads, number of prompts, methods); only one entry has `auto`.
SOME = (
    ("draft", 1, 2, UNTUNED),
    ("draft", 2, 2, METHODS),
    ("poor", 2, 2, UNTUNED),
    ("random", 1, 1, UNTUNED),
)
# Number of prompts with which some answers end at a stop string, and others at max_tokens.
ENOUGH = 4
QUANTISED = [("int8", "float32"), ("int8", "int8"), ("int4", "int8")]  # (weights, activations)
# All params that change a row's distribution, and stop strings of several tokens. Each stop string
# ends some answers.
SHAPING = {
    "repetition_penalty": 1.15,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.3,
    "min_tokens": 5,
    "bad_words": ["self.assert", "import"],
    "stop": ["return None", "\n\ndef ", "raise ValueError(", '"""\n    return'],
}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.8},
    "greedy, shaped": {"temperature": 0.0, "logit_bias": {12: 1.5, 200: -3.0}, **SHAPING},
    "sampled, shaped": {"temperature": 0.8, "top_p": 0.9, "top_k": 200, "min_p": 0.001, **SHAPING},
}
PLAIN_DISTS, SHAPED_DISTS = list(SAMPLINGS)[:2], list(SAMPLINGS)[2:]


@cache
def some_prompts(limit: int) -> list[str]:
    """Return the prompts of the JSON lines file that $SBRT_PROMPTS names. Without it, return
    built-in prompts with a number before each."""
    if file := os.environ.get("SBRT_PROMPTS"):
        return read_prompts(Path(file), limit)
    return [f"# {i}\n{text}" for i in range(limit) for text in BUILT_IN][:limit]


MakeEngine = Callable[[str, int, tuple[str, ...]], Engine]


@pytest.fixture(scope="module")
def engine_of() -> Iterator[MakeEngine]:
    """engine_of(draft, threads, methods): returns an engine, opened once for all tests of the
    module."""
    opened: dict[tuple[str, int, bool], Engine] = {}

    def make(draft: str, threads: int, methods: tuple[str, ...]) -> Engine:
        key = (draft, threads, "auto" in methods)
        if key not in opened:
            opened[key] = open_engine(draft, threads, methods)
        return opened[key]

    yield make
    for engine in opened.values():
        engine.close()


def open_engine(draft: str, threads: int, methods: tuple[str, ...], **kept: str) -> Engine:
    """Return an engine of the demo target. draft: "draft", "poor" or "random". kept: fields of the
    config that set dtypes."""
    target = demo_folder("target")
    if draft == "random":
        config = EngineConfig(model=target, num_threads=threads)
        pair = load_pair(config, make_draft=random_draft)
    else:
        speculative = {"model": demo_folder(draft), "method": methods[0]}
        config = EngineConfig(model=target, num_threads=threads, speculative=speculative, **kept)
        pair = load_pair(config)
    return Engine(config, pair=pair, methods=("none", *methods))


Answer = tuple[list[int], str, str | None, int | str | None]


def length_of(prompts: list[str], sampling: str) -> int:
    """Return the length of an answer in tokens. A shaped answer needs many tokens to reach a stop
    string."""
    return MAX_TOKENS if "stop" in SAMPLINGS[sampling] or len(prompts) > ENOUGH else FEW_TOKENS


def answers(engine: Engine, method: str, prompts: list[str], sampling: str) -> list[Answer]:
    found: list[Answer] = []
    most = length_of(prompts, sampling)
    for i, prompt in enumerate(prompts):
        # Every eighth answer may end at an end-of-sequence token; the other answers ignore it.
        params = SamplingParams(
            seed=i, max_tokens=most, ignore_eos=i % 8 != 0, **SAMPLINGS[sampling]
        )
        [answer] = engine.generate(prompt, params, method=method)[0].outputs
        found.append((answer.token_ids, answer.text, answer.finish_reason, answer.stop_reason))
    return found


def check_all_methods(
    engine: Engine, sampling: str, limit: int, methods: tuple[str, ...] = METHODS
) -> None:
    prompts = some_prompts(limit)
    plain = answers(engine, "none", prompts, sampling)
    if "stop" in SAMPLINGS[sampling]:
        stopped = {reason for _, _, finish, reason in plain if finish == "stop"}
        assert stopped & set(SHAPING["stop"]), "no answer reached a stop string"
    else:
        least = limit * 7 // 8 * length_of(prompts, sampling)
        assert sum(len(answer[0]) for answer in plain) >= least
    for method in methods:
        assert answers(engine, method, prompts, sampling) == plain, method


@pytest.mark.parametrize("sampling", PLAIN_DISTS)
@pytest.mark.parametrize(("draft", "threads", "limit", "methods"), SOME)
def test_some_prompts(
    engine_of: MakeEngine,
    draft: str,
    threads: int,
    limit: int,
    methods: tuple[str, ...],
    sampling: str,
) -> None:
    check_all_methods(engine_of(draft, threads, methods), sampling, limit, methods)


# These cases run every method once, greedy or sampled. `make exact` runs every method with every
# prompt and sampling.
SHAPED = (
    ("draft", 1, SHAPED_DISTS[0], UNTUNED[::2]),
    ("poor", 2, SHAPED_DISTS[1], UNTUNED[1::2]),
    pytest.param("draft", 2, SHAPED_DISTS[1], UNTUNED, marks=pytest.mark.exact),
    pytest.param("poor", 2, SHAPED_DISTS[0], UNTUNED, marks=pytest.mark.exact),
)


@pytest.mark.parametrize(("draft", "threads", "sampling", "methods"), SHAPED)
def test_some_prompts_shaped(
    engine_of: MakeEngine, draft: str, threads: int, sampling: str, methods: tuple[str, ...]
) -> None:
    check_all_methods(engine_of(draft, threads, UNTUNED), sampling, ENOUGH, methods)


@pytest.mark.parametrize("limit", [ENOUGH, pytest.param(24, marks=pytest.mark.exact)])
@pytest.mark.parametrize("sampling", PLAIN_DISTS)
@pytest.mark.parametrize("draft", DRAFTS[:2])
def test_the_shipped_classifiers_cut_chains_and_change_no_token(
    draft: str, sampling: str, limit: int
) -> None:
    prompts = some_prompts(limit)
    methods = ("specbranch:gamma=7,epsilon=0,hrad=demo", "specbranch:gamma=7,epsilon=0")
    with open_engine(draft, 1, methods) as engine:
        plain = answers(engine, "none", prompts, sampling)
        rolled_back = []
        for method in methods:
            assert answers(engine, method, prompts, sampling) == plain, method
            outputs = [
                engine.generate(
                    prompt, SamplingParams(seed=i, **SAMPLINGS[sampling]), method=method
                )[0]
                for i, prompt in enumerate(prompts)
            ]
            metrics = [output.outputs[0].spec_decode_metrics for output in outputs]
            rolled_back.append(sum(m["num_rollback_tokens"] for m in metrics if m))
    assert rolled_back[0] < rolled_back[1]


@pytest.mark.parametrize("methods", [UNTUNED, pytest.param(METHODS, marks=pytest.mark.exact)])
@pytest.mark.parametrize(("dtype", "activations"), QUANTISED)
def test_quantised_weights_equal_their_own_plain_decoding(
    dtype: str, activations: str, methods: tuple[str, ...]
) -> None:
    prompts = some_prompts(1)
    kept = {"dtype": dtype, "activation_dtype": activations}
    with open_engine("draft", 2, methods, **kept) as engine:
        plain = {sampling: answers(engine, "none", prompts, sampling) for sampling in PLAIN_DISTS}
        for method, sampling in product(methods, PLAIN_DISTS):
            assert answers(engine, method, prompts, sampling) == plain[sampling], (method, sampling)
    with open_engine("draft", 1, ("none",), **kept) as engine:
        assert plain == {
            sampling: answers(engine, "none", prompts, sampling) for sampling in PLAIN_DISTS
        }


@pytest.mark.exact
@pytest.mark.parametrize("sampling", PLAIN_DISTS)
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("draft", DRAFTS)
def test_all_prompts(engine_of: MakeEngine, draft: str, threads: int, sampling: str) -> None:
    check_all_methods(engine_of(draft, threads, METHODS), sampling, limit=164)


@pytest.mark.exact
@pytest.mark.parametrize("sampling", SHAPED_DISTS)
@pytest.mark.parametrize("draft", DRAFTS[:2])
def test_all_prompts_shaped(engine_of: MakeEngine, draft: str, sampling: str) -> None:
    check_all_methods(engine_of(draft, 1, METHODS), sampling, limit=164)


@pytest.mark.parametrize("sampling", PLAIN_DISTS)
def test_threads_change_nothing(engine_of: MakeEngine, sampling: str) -> None:
    prompts = some_prompts(3)
    alone, team = (
        answers(engine_of("draft", threads, methods), "specbranch", prompts, sampling)
        for threads, methods in ((1, UNTUNED), (2, METHODS))
    )
    assert alone == team


def test_seeds_differ(engine_of: MakeEngine) -> None:
    """The comparison of sampled answers is meaningful, because another seed gives another text."""
    engine, [prompt] = engine_of("draft", 1, UNTUNED), some_prompts(1)
    texts = set()
    for seed in range(4):
        params = SamplingParams(temperature=0.8, seed=seed, max_tokens=64, ignore_eos=True)
        texts.add(engine.generate(prompt, params)[0].outputs[0].text)
    assert len(texts) == 4
