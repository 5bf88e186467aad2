"""Contract under test: with quantised weights a device gives the same tokens as the CPU's engine
with the same format of weights. This holds for every method, sampled and greedy, alone and among
other sequences. A quantised draft changes no token of its target, with or without a trimmed LM
head."""

import json
from dataclasses import replace

import pytest
from safetensors.numpy import load_file

from sbrt import Engine, SamplingParams
from tests.common.trimmed import head_fields, head_weights, write_draft

METHODS = (
    "draft_model",
    "specbranch:k_max=3",
    "tree:gamma=3,width=4,nodes=12",
    "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4",
)
GREEDY = SamplingParams(temperature=0, max_tokens=6)
SAMPLED = SamplingParams(temperature=0.8, seed=5, max_tokens=6)


def config_of(tool, pair, device, dtype, draft_dtype=None, seats=1):
    """Return an engine's config. draft_dtype None: the draft has the target's dtype."""
    config = tool.config_of([c.folder for c in pair], device, max_num_seqs=seats)
    speculative = replace(config.speculative, dtype=draft_dtype)
    return replace(config, dtype=dtype, speculative=speculative)


def answers(engine, prompts, methods, params):
    """Return {method: token ids of each prompt}. With several seats the prompts share rounds."""
    return {
        method: [
            out.outputs[0].token_ids for out in engine.generate(prompts, params, method=method)
        ]
        for method in methods
    }


@pytest.mark.parametrize(("dtype", "seats"), [("int8", 1), ("int8", 3), ("int4", 1)])
def test_tokens_are_those_of_the_cpu(tools, tool, stand_in, checkpoints, dtype, seats):
    pair = checkpoints["Llama" if seats == 1 else "Qwen3"]
    prompts = [tools.prompt(7 + i, seed=i) for i in range(seats)]
    asked = METHODS if (dtype, seats) == ("int8", 1) else METHODS[1::2]
    kinds = (GREEDY, SAMPLED)
    with Engine(config_of(tool, pair, "cpu", dtype, seats=seats)) as engine:
        want = [answers(engine, prompts, ["none"], params)["none"] for params in kinds]
    with Engine(config_of(tool, pair, "cuda", dtype, seats=seats), methods=METHODS) as engine:
        for params, tokens in zip(kinds, want, strict=True):
            given = answers(engine, prompts, ["none", *asked], params)
            assert given == dict.fromkeys(["none", *asked], tokens)


def test_attention_rounds_its_result_as_the_cpu_does(tools, tool, stand_in, tmp_path):
    """Heads of 32 columns: attention writes the integers that o reads."""
    sizes = {"head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    pair = [tools.write(tmp_path / str(x), noise=x, **sizes) for x in (0.0, 0.03)]
    prompts = [tools.prompt(7)]
    with Engine(config_of(tool, pair, "cpu", "int8")) as engine:
        want = [answers(engine, prompts, ["none"], params)["none"] for params in (GREEDY, SAMPLED)]
    with Engine(config_of(tool, pair, "cuda", "int8"), methods=METHODS) as engine:
        for params, tokens in zip((GREEDY, SAMPLED), want, strict=True):
            given = answers(engine, prompts, METHODS, params)
            assert given == dict.fromkeys(METHODS, tokens)


def test_a_quantised_draft_of_a_target_of_floats(tools, tool, stand_in, checkpoints):
    pair = checkpoints["Llama"]
    prompts = [tools.prompt(9)]
    with Engine(tool.config_of([c.folder for c in pair], "cuda")) as engine:
        want = answers(engine, prompts, ["none"], GREEDY)["none"]
    config = config_of(tool, pair, "cuda", "float32", "int8")
    with Engine(config, methods=METHODS) as engine:
        target, draft = (capture.lane.weights for capture in stand_in.captures[-2:])
        assert (target.is_packed, draft.is_packed) == (False, True)
        assert answers(engine, prompts, METHODS, GREEDY) == dict.fromkeys(METHODS, want)


def test_a_quantised_head_for_some_ids(tools, tool, stand_in, checkpoints, tmp_path):
    [target, _] = checkpoints["Llama"]
    ids = tuple(range(1, 60))
    config = json.loads((target.folder / "config.json").read_text()) | head_fields(ids)
    weights = head_weights(load_file(target.folder / "model.safetensors"), ids, embedding=True)
    folder = write_draft(tmp_path / "d", config, weights)
    prompts, method = [tools.prompt(9)], METHODS[1]
    made = tool.config_of([target.folder, folder], "cuda")
    config = replace(made, speculative=replace(made.speculative, dtype="int8"))
    with Engine(config, methods=METHODS) as engine:
        draft = stand_in.captures[-1].lane.weights
        assert (draft.head.n, len(draft.ids)) == (len(ids), len(ids))
        found = answers(engine, prompts, ["none", method], GREEDY)
        [out] = engine.generate(prompts, GREEDY, method=method)
        assert out.outputs[0].spec_decode_metrics["num_accepted_draft_tokens"] > 0
    assert found[method] == found["none"]
