"""Contract under test: an engine over recorded lanes answers like the CPU's engine, with the same
text. Without a CUDA device, an engine for `cuda` raises an error of one sentence before it reads a
weight."""

from dataclasses import replace

import pytest
import torch

from sbrt import Engine, EngineConfig, EngineError, SamplingParams
from sbrt.gpu.lane import ROWS, rows_for
from sbrt.methods import METHODS, parse
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.demo_pair import demo_folder
from sbrt.serve.pair import load_pair


def test_an_engine_over_recorded_lanes(tools, checkpoints):
    target, draft = checkpoints["Qwen2"]
    config = EngineConfig(
        target.folder, skip_tokenizer_init=True, num_threads=2, max_model_len=tools.max_len,
        speculative={"model": draft.folder, "method": "specbranch", "num_branches": 3},
    )  # fmt: skip
    pair = load_pair(config)
    models = [tools.recorded(open_checkpoint(c.folder)) for c in (target, draft)]
    answers = []
    params = SamplingParams(
        temperature=0.8, seed=3, max_tokens=8, repetition_penalty=1.2, top_p=0.9
    )
    plain = SamplingParams(temperature=0.8, seed=3, max_tokens=8, top_k=20)
    for each in (pair, replace(pair, target=models[0], draft=models[1])):
        with Engine(config, pair=each) as engine:
            outputs = engine.generate([tools.prompt(12)] * 2, [params, plain])
            answers.append([o.outputs[0].token_ids for o in outputs])
    assert answers[0] == answers[1]
    assert [len(tokens) for tokens in answers[0]] == [8, 8]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_without_a_device_there_is_one_sentence(device):
    with pytest.raises(EngineError, match=r"^device: expected a CUDA device .* none \(torch .*\)$"):
        Engine.from_pretrained(demo_folder("target"), device=device)


def test_verification_holds_the_chains_of_all_seats():
    assert [rows_for(parse("none"), seats) for seats in (8, 16, 17, 64)] == [16, 16, 32, 64]
    assert [rows_for(parse("pearl:gamma=4"), seats) for seats in (3, 6, 8, 64)] == [16, 32, 64, 64]


def test_every_method_has_rows_that_hold_its_chains():
    assert [rows_for(parse(name)) for name in ("none", "pearl", "specbranch")] == [16, 16, 16]
    assert rows_for(parse("tree")) == 32
    assert rows_for(parse("specbranch:gamma=15")) == 16
    assert rows_for(parse("specbranch:gamma=16")) == 32
    assert {rows_for(parse(name)) for name in METHODS} <= set(ROWS)
    assert rows_for(parse("lookup:gamma=63")) == 64
    assert rows_for(parse("hedge:tree=0,on_miss=continue")) == 16  # chains have at most 15 nodes
    # Lookup may give a chain of gamma tokens, even if trees have fewer nodes.
    assert rows_for(parse("hedge:gamma=20,tree=2,nodes=3,on_miss=lookup")) == 32
