"""Contract under test: mode fast. A verification uses the smallest of five graphs that holds its
rows. Tokens must be those of mode exact, except after a near-tie of the target's two largest
logits."""

import pytest

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams
from tests.gpu.test_on_device import METHODS, sizes_taken

PARAMS = SamplingParams(temperature=0, max_tokens=10, logprobs=1)
GAP = 1e-4  # answers may differ where the two largest log-probs are closer than this
SIZES = {
    "none": {1},
    "pearl": {16},
    "pearl:gamma=3": {4},
    "lookup:gamma=20": {32},
    "tree:gamma=3,width=4,nodes=48": {64},
}


def answer(engine, prompt, method):
    [out] = engine.generate(prompt, PARAMS, method=method)
    return out.outputs[0]


def agrees(found, want):
    """Return True if the answers are the same up to the first near-tie in the answer of mode
    exact."""
    for at, (a, b) in enumerate(zip(found.token_ids, want.token_ids, strict=True)):
        if a != b:
            best = sorted((place.logprob for place in want.logprobs[at].values()), reverse=True)
            return best[0] - best[1] < GAP
    return True


def test_it_answers_like_mode_exact(tools, tool, stand_in, checkpoints):
    pair = [checkpoint.folder for checkpoint in checkpoints["Qwen2"]]
    found = {}
    for mode in ("exact", "fast"):
        config = tool.config_of(pair, "cuda", max_model_len=tools.max_len, mode=mode)
        with Engine(config, methods=[*SIZES, *METHODS]) as engine:
            for method in SIZES:
                before = len(stand_in.picks())
                found[mode, method] = answer(engine, tools.prompt(9), method)
                if mode == "fast":
                    assert sizes_taken(stand_in.picks()[before:])[0] == SIZES[method]
    for method in SIZES:
        assert agrees(found["fast", method], found["exact", "none"]), method


def test_a_cpu_has_one_mode():
    with pytest.raises(InvalidInputError, match=r"^mode: expected exact on a CPU, got fast$"):
        EngineConfig("x", mode="fast")
    with pytest.raises(InvalidInputError, match=r"^mode: expected one of exact, fast"):
        EngineConfig("x", device="cuda", mode="quick")
