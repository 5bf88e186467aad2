"""Contract under test: recorded lanes give log-probs. The CPU's vector code and a device's thread
blocks must compute the same bits, for every method and for many sequences in a round. A request
that does not ask for log-probs launches no op for them."""

from dataclasses import replace

import pytest

from sbrt import Engine, SamplingParams
from sbrt.serve.pair import load_pair

METHODS = ("none", "pearl", "specbranch:k_max=3", "tree:gamma=3,width=4,nodes=12")
ASKED = SamplingParams(temperature=0.8, seed=5, max_tokens=12, logprobs=3, prompt_logprobs=2)
NEAR = 2e-4  # largest difference: recordings add float32 values in another order
# Filters, penalties and bias do not change log-probs, which come from the raw logits.
KINDS = (
    ASKED,
    replace(ASKED, logprobs=-1, prompt_logprobs=None, top_k=3),
    replace(ASKED, logprobs=None, prompt_logprobs=0, temperature=0, max_tokens=5),
    replace(ASKED, logprobs=None, prompt_logprobs=None),
    replace(ASKED, logprobs=0, repetition_penalty=1.4, logit_bias={3: 4.0}),
)


def told(engine, prompt, method, params=ASKED):
    [out] = engine.generate(prompt, params, method=method)
    return found_in(out)


def found_in(out):
    [answer] = out.outputs
    return answer.token_ids, answer.logprobs, out.prompt_logprobs and list(out.prompt_logprobs)


def together(engine, requests):
    """Run requests that share rounds. Return the result of `found_in` for each request."""
    found = {}
    for i, (prompt, params, method) in enumerate(requests):
        engine.add_request(f"{i}", prompt, params, method=method)
    while len(found) < len(requests):
        found |= {out.request_id: found_in(out) for out in engine.step() if out.finished}
    return [found[f"{i}"] for i in range(len(requests))]


def values(positions):
    return [
        (token, found.logprob)
        for position in positions[1:]
        for token, found in sorted(position.items())
    ]


@pytest.fixture
def opened(tools, tool, checkpoints):
    """Return a function that opens an engine: on the stand-in, on the CPU over recordings, or with
    the CPU's own lanes."""

    def made(device, seats=1, recorded=True, holes=()):
        pair = [checkpoint.folder for checkpoint in checkpoints["Llama"]]
        config = tool.config_of(
            pair, device, max_model_len=tools.max_len, max_num_seqs=seats, max_logprobs=-1
        )
        loaded = replace(load_pair(config), holes=holes)
        if recorded and device == "cpu":
            models = [tools.recorded(checkpoint) for checkpoint in checkpoints["Llama"]]
            loaded = replace(loaded, target=models[0], draft=models[1])
        return Engine(config, pair=loaded, methods=METHODS)

    return made


def test_recorded_lanes_on_the_cpu(tools, opened):
    prompt = tools.prompt(70)
    with opened("cpu", recorded=False) as engine:
        *_, own = told(engine, prompt, "none")
    with opened("cpu") as engine:
        plain = told(engine, prompt, "none")
        assert [told(engine, prompt, method) for method in METHODS] == [plain] * len(METHODS)
    found, wanted = values(plain[2]), values(own)
    assert [token for token, _ in found] == [token for token, _ in wanted]
    assert [v for _, v in found] == pytest.approx([v for _, v in wanted], rel=0, abs=NEAR)


@pytest.mark.parametrize("holes", [(0, 5, 40, 66), pytest.param((), marks=pytest.mark.exact)])
def test_a_device_finds_the_same_bits(tools, stand_in, opened, holes):
    """The device must give the tokens and log-probs of the CPU over the same recordings. The
    requests run one after the other, then three at a time."""
    requests = [
        (tools.prompt(9 + 61 * (i == 0), seed=i), KINDS[i % len(KINDS)], METHODS[i % len(METHODS)])
        for i in range(len(KINDS) + 1)
    ]
    with opened("cpu", holes=holes) as engine:
        want = [told(engine, prompt, "none", params) for prompt, params, _ in requests]
    assert {len(place) for place in want[1][1]} == {tools.vocab - len(holes)}
    with opened("cuda", holes=holes) as engine:
        alone = [told(engine, prompt, method, params) for prompt, params, method in requests]
    assert alone == want
    with opened("cuda", seats=3, holes=holes) as engine:
        assert together(engine, requests) == want


def test_who_does_not_ask_launches_no_op_for_it(tools, stand_in, opened):
    kept = {"output_logprob_rows", "prompt_logprob_rows"}
    for params, ops in ((KINDS[3], set()), (ASKED, kept)):
        with opened("cuda") as engine:
            told(engine, tools.prompt(9), "pearl", params)
            told(engine, tools.prompt(9), "none", params)
            order = stand_in.cores[-1][1].order
            assert {op[1] for op in order.ops()} & kept == ops
            assert order.conflicts() == []
