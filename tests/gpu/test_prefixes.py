"""Contract under test: an engine for a CUDA device, on the stand-in, reuses the KV of an earlier
prompt with the same beginning. The KV is in the same seat, or a lane copies it from another seat on
its own stream. Only KV computed in prefill is reused, not KV computed in rounds. No token may
depend on reuse."""

from dataclasses import replace

import pytest

from sbrt import Engine, InvalidInputError
from tests.gpu.test_on_device import METHODS, PARAMS, folders
from tests.gpu.test_seats import FAMILY, alone

REUSED = {"enable_prefix_caching": True}


@pytest.fixture
def made(tools, tool, stand_in, checkpoints):
    pair = folders(checkpoints, FAMILY)

    def call(**more):
        config = tool.config_of(pair, "cuda", max_model_len=tools.max_len, **more)
        return Engine(config, methods=METHODS)

    return call


def chat(engine, tools, method):
    """Run a chat of three turns. For each turn, return (tokens, number of reused tokens, length of
    the prompt)."""
    ids, turns = tools.prompt(70), []
    for turn in range(3):
        params = replace(list(PARAMS.values())[turn], max_tokens=8)
        [out] = engine.generate(ids, params, method=method)
        turns.append((list(out.outputs[0].token_ids), out.num_cached_tokens, len(ids)))
        ids = [*ids, *turns[-1][0], *tools.prompt(5, seed=turn)]
    return turns


@pytest.mark.parametrize("draft_device", [None, "cuda:1"])
def test_a_chat_feeds_what_no_prompt_fed(tools, made, draft_device):
    with made() as engine:
        fresh = chat(engine, tools, "none")
    assert [cached for _, cached, _ in fresh] == [0, 0, 0]
    with made(draft_device=draft_device, **REUSED) as engine:
        for method in METHODS[3::3]:
            engine.generate(tools.prompt(20, seed=9), PARAMS["greedy"], method="none")
            turns = chat(engine, tools, method)
            assert [tokens for tokens, *_ in turns] == [tokens for tokens, *_ in fresh]
            # The first round, not prefill, processes the last token of a prompt.
            assert [cached for _, cached, _ in turns] == [0, *(n - 1 for *_, n in turns[:-1])]


def requests_of(tools):
    """Return {name: (prompt, params, method)}. All prompts begin with the same 80 tokens, and all
    methods draft."""
    common, kinds = tools.prompt(80), list(PARAMS.values())
    return {
        f"{i}": (
            [*common, i, *tools.prompt(2 + i, seed=i)],
            replace(kinds[i % len(kinds)], max_tokens=6),
            METHODS[3 + i],
        )
        for i in range(7)
    }


@pytest.mark.parametrize("draft_device", [None, "cuda:1", "cpu"])
def test_running_requests_lend_their_beginning(tools, made, stand_in, draft_device):
    """Requests that share a beginning of 80 tokens are added one step apart. All but the first must
    reuse these 80 tokens, and all answers must be those of requests that run alone."""
    requests = requests_of(tools)
    with made(max_num_seqs=3) as engine:
        want = alone(engine, requests)
    found, cached, waiting = {}, {}, list(requests.items())
    with made(max_num_seqs=3, draft_device=draft_device, **REUSED) as engine:
        while len(found) < len(requests):
            if waiting:
                name, (prompt, params, method) = waiting.pop(0)
                engine.add_request(name, prompt, params, method=method)
            for out in engine.step():
                cached[out.request_id] = out.num_cached_tokens
                if out.finished:
                    [answer] = out.outputs
                    found[out.request_id] = (answer.token_ids, answer.finish_reason)
        ops = stand_in.cores[-1][1].order.ops()
    assert found == want
    assert cached.pop("0") == 0
    assert set(cached.values()) == {80}
    copies = [op for op in ops if len(op) == 5 and op[1] == "copy_prefix"]
    # The host itself copies the KV of a draft on the CPU.
    by = "host" if draft_device == "cpu" else "draft"
    assert {op[0] for op in copies} == {"target", by}


def test_flash_attention_refuses_it(tools, made):
    with pytest.raises(InvalidInputError, match="attention_backend: expected auto or triton"):
        made(attention_backend="torch", **REUSED)


def test_without_it_flash_attention_feeds_prompts(tools, made, stand_in):
    """Flash attention gives KV with other bits than a round does. So a lane with flash attention
    offers no KV for reuse. With reuse, the engine must not choose flash attention."""
    with made():
        assert all(c.lane.flash is not None and c.lane.kv == 0 for c in stand_in.captures)
    stand_in.captures.clear()
    with made(**REUSED):
        assert all(c.lane.flash is None and c.lane.kv for c in stand_in.captures)
