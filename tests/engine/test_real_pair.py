"""Contract under test: the published pair `smollm2`, opened by name, gives the same tokens as its
target alone."""

import pytest

from sbrt import Engine, InvalidInputError, SamplingParams
from sbrt.model import real_pair
from sbrt.tools.demo import read_prompts

METHODS = ("draft_model", "tree", "specbranch", "auto")


@pytest.fixture(scope="module")
def engine():
    try:
        real_pair.target_file()
    except InvalidInputError as error:
        pytest.skip(str(error))
    found = Engine.from_pretrained(
        target="smollm2", draft="smollm2", num_threads=2, max_model_len=512,
        speculative={"method": "auto"},
    )  # fmt: skip
    with found:
        yield found


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_no_token_changes(engine, temperature):
    prompts = [text for _, text in read_prompts()][::6]
    params = SamplingParams(temperature=temperature, seed=3, max_tokens=24)
    plain = engine.generate(prompts, params, method="none")
    texts = [output.outputs[0].text for output in plain]
    assert all(len(text) > 20 for text in texts)
    for method in METHODS:
        found = engine.generate(prompts, params, method=method)
        for one, other in zip(found, plain, strict=True):
            assert one.outputs[0].token_ids == other.outputs[0].token_ids, method


def test_the_draft_is_often_right(engine):
    """The draft was not trained on these prompts. A random draft would be right far less often."""
    prompts = [text for _, text in read_prompts()][::2]
    params = SamplingParams(temperature=0, max_tokens=32)
    found = engine.generate(prompts, params, method="draft_model")
    spec = [output.outputs[0].spec_decode_metrics for output in found]
    accepted = sum(one["num_accepted_draft_tokens"] for one in spec)
    assert accepted / sum(one["num_spec_steps"] for one in spec) > 0.6
