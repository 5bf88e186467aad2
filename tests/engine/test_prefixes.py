"""Contract under test: a prompt that begins like the tokens of a seat reuses that seat's KV, in
both lanes. Prefill computes only the rest. Reuse changes no token of any method. The tests use
turns of a chat, answers to one prompt, and prompts with a common beginning in the same rounds. They
also use aborts, and rings that have wrapped."""

from __future__ import annotations

import pytest

from sbrt import Engine, EngineConfig, SamplingParams
from sbrt.model.demo_pair import demo_folder
from sbrt.serve.pair import load_pair
from tests.common.toys import GREEDY, VOCAB, ids_of, toy_engine

METHODS = ("none", "draft_model", "lookup", "tree", "specbranch", "hedge")
SAMPLINGS = ({"temperature": 0.0}, {"temperature": 0.9, "seed": 5})
TURNS = 6


def demo_engine(**fields) -> Engine:
    config = EngineConfig(
        model=demo_folder("target"),
        num_threads=2,
        max_num_seqs=1,
        speculative={"model": demo_folder("draft"), "method": "specbranch"},
        **fields,
    )
    return Engine(config, pair=load_pair(config), methods=METHODS)


def chat(engine: Engine, sampling: dict, method: str) -> list[tuple]:
    """Run a chat. Return (tokens, number of reused tokens, length of the prompt) of each turn."""
    ids, turns = engine.encode("def read(path):\n"), []
    for turn in range(TURNS):
        ids = ids + engine.encode(f"# {turn}: and then\n")
        params = SamplingParams(max_tokens=20, ignore_eos=True, **sampling)
        [output] = engine.generate(ids, params, method=method)
        turns.append((ids_of(output), output.num_cached_tokens, len(ids)))
        ids = ids + ids_of(output)
    return turns


@pytest.mark.parametrize(
    ("sampling", "names"),
    [
        pytest.param(SAMPLINGS[0], METHODS, id="greedy"),
        pytest.param(SAMPLINGS[1], ("lookup", "specbranch"), id="sampled"),
        pytest.param(SAMPLINGS[1], METHODS, id="sampled, all methods", marks=pytest.mark.exact),
    ],
)
def test_a_chat_feeds_what_is_new(sampling: dict, names: tuple[str, ...]) -> None:
    with demo_engine(enable_prefix_caching=False) as engine:
        fresh = chat(engine, sampling, "none")
        assert [cached for _, cached, _ in fresh] == [0] * TURNS
    with demo_engine() as engine:
        for method in names:
            engine.generate("Another chat has the seat first.", GREEDY, method="none")
            turns = chat(engine, sampling, method)
            assert [tokens for tokens, *_ in turns] == [tokens for tokens, *_ in fresh], method
            before = 0
            for tokens, cached, length in turns:
                # The KV of the last accepted path is not reused, because only a further round would
                # move this KV to its slots.
                least = max(0, before - 20)
                assert least <= cached <= (length - 1 if before else 0), (method, cached, before)
                before = length + len(tokens)


def test_answers_to_one_prompt_share_its_prefill() -> None:
    prompt = [i * 5 % VOCAB for i in range(300)]
    with toy_engine(max_num_seqs=4, enable_prefix_caching=False) as engine:
        [fresh] = engine.generate(prompt, GREEDY, method="none")
    with toy_engine(max_num_seqs=4) as engine:
        for i in range(8):
            engine.add_request(f"{i}", prompt, GREEDY, method=METHODS[i % len(METHODS)])
        found = {}
        while engine.has_unfinished_requests():
            found |= {o.request_id: (ids_of(o), o.num_cached_tokens) for o in engine.step()}
    assert all(tokens == ids_of(fresh) for tokens, _ in found.values())
    assert sorted(cached for _, cached in found.values()) == [0] + [len(prompt) - 1] * 7


def test_a_prompt_that_was_aborted_leaves_what_was_fed() -> None:
    prompt = [i * 3 % VOCAB for i in range(1000)]
    with toy_engine(enable_prefix_caching=False) as engine:
        [fresh] = engine.generate(prompt, GREEDY, method="none")
    with toy_engine(max_num_seqs=2) as engine:
        engine.add_request("other", [1] * 20, SamplingParams(temperature=0, max_tokens=400))
        engine.step()
        engine.add_request("long", prompt, GREEDY)
        for _ in range(6):
            engine.step()
        engine.abort_request(["long", "other"])
        [output] = engine.generate(prompt, GREEDY)
    assert ids_of(output) == ids_of(fresh)
    assert output.num_cached_tokens is not None
    assert 64 <= output.num_cached_tokens < len(prompt) - 64


def test_a_ring_that_has_wrapped_is_not_taken() -> None:
    window = {"window": 100}
    prompt = [i * 3 % VOCAB for i in range(90)]
    with toy_engine(window, window, enable_prefix_caching=False) as engine:
        many = SamplingParams(temperature=0, max_tokens=200)
        [fresh] = engine.generate(prompt, many, method="none")
    with toy_engine(window, window, max_num_seqs=1) as engine:
        for _ in range(2):
            [output] = engine.generate(prompt, many)
            assert (ids_of(output), output.num_cached_tokens) == (ids_of(fresh), 0)


def test_the_seat_that_has_most_of_a_prompt_is_taken() -> None:
    prompts = [[k] * 30 + [i * (k + 1) % VOCAB for i in range(70)] for k in range(1, 5)]
    with toy_engine(max_num_seqs=4) as engine:
        engine.generate(prompts, GREEDY)
        for prompt in reversed(prompts):
            [output] = engine.generate([*prompt, 9, 8, 7], GREEDY)
            assert output.num_cached_tokens == len(prompt)


def test_a_sequence_that_failed_leaves_nothing() -> None:
    prompt = [i * 3 % VOCAB for i in range(60)]
    with toy_engine(target={"nan_at": 70}, max_num_seqs=1) as engine:
        for _ in range(2):
            [output] = engine.generate(prompt, SamplingParams(temperature=0, max_tokens=40))
            assert output.outputs[0].finish_reason == "error"
            assert output.num_cached_tokens == 0
