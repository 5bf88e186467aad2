"""Contract under test: lanes of recordings on the CPU give log-probs, and every method gives those
of plain decoding. An engine for a CUDA device refuses them, in a sentence that names the field."""

from dataclasses import replace

import pytest

from sbrt import Engine, InvalidInputError, SamplingParams
from sbrt.serve.pair import load_pair

METHODS = ("none", "pearl", "specbranch:k_max=3", "tree:gamma=3,width=4,nodes=12")
ASKED = SamplingParams(temperature=0.8, seed=5, max_tokens=12, logprobs=3, prompt_logprobs=2)
NEAR = 2e-4  # another order of additions in float32


def told(engine, prompt, method):
    [out] = engine.generate(prompt, ASKED, method=method)
    [answer] = out.outputs
    return answer.token_ids, answer.logprobs, out.prompt_logprobs


def values(positions):
    return [
        (token, found.logprob)
        for position in positions[1:]
        for token, found in sorted(position.items())
    ]


def test_recorded_lanes_on_the_cpu(tools, tool, checkpoints):
    pair = [checkpoint.folder for checkpoint in checkpoints["Llama"]]
    config = tool.config_of(pair, "cpu", max_model_len=tools.max_len)
    prompt = tools.prompt(70)
    with Engine(config) as engine:
        *_, own = told(engine, prompt, "none")
    models = [tools.recorded(checkpoint) for checkpoint in checkpoints["Llama"]]
    twins = replace(load_pair(config), target=models[0], draft=models[1])
    with Engine(config, pair=twins, methods=METHODS) as engine:
        plain = told(engine, prompt, "none")
        assert [told(engine, prompt, method) for method in METHODS] == [plain] * len(METHODS)
    found, wanted = values(plain[2]), values(own)
    assert [token for token, _ in found] == [token for token, _ in wanted]
    assert [v for _, v in found] == pytest.approx([v for _, v in wanted], rel=0, abs=NEAR)


@pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
def test_a_device_refuses(tools, tool, stand_in, checkpoints, name):
    pair = [checkpoint.folder for checkpoint in checkpoints["Llama"]]
    with Engine(tool.config_of(pair, "cuda", max_model_len=tools.max_len)) as engine:
        with pytest.raises(InvalidInputError, match=f"^{name}: expected none on cuda"):
            engine.generate(tools.prompt(9), SamplingParams(**{name: 0}))
        assert len(engine.generate(tools.prompt(9), SamplingParams(max_tokens=3))) == 1
