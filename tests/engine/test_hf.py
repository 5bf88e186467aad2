"""Contract under test: model.generate(custom_generate=sbrt.hf.generate) returns the same tokens as
model.generate, in the same shape. sbrt.hf.generate refuses arguments that the engine does not
support."""

from __future__ import annotations

import pytest

from sbrt import Engine, InvalidInputError, hf
from sbrt.model import demo_pair

NEAR = 1e-3  # rounding may decide which of two logits closer than this is larger


@pytest.fixture(scope="module")
def model():
    transformers = pytest.importorskip("transformers")
    import torch

    folder = str(demo_pair.demo_folder("target"))
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    import transformers

    found = transformers.AutoTokenizer.from_pretrained(str(demo_pair.demo_folder("target")))
    found.pad_token = found.eos_token
    found.padding_side = "left"
    return found


@pytest.fixture(scope="module")
def engine():
    """Return one engine for all tests, on one thread, with the demo draft."""
    with Engine.from_pretrained("demo", "demo", dtype="float32", num_threads=1) as found:
        yield found


def same(model, ours, theirs):
    """Return True if both answers are equal, or first differ at a token whose logits are nearly
    tied."""
    import torch

    if ours.shape == theirs.shape and bool((ours == theirs).all()):
        return True
    [row], [other] = ours.tolist(), theirs.tolist()
    at = next(i for i, (a, b) in enumerate(zip(row, other, strict=False)) if a != b)
    logits = model(torch.tensor([other[:at]])).logits[0, -1]
    return abs(float(logits[row[at]] - logits[other[at]])) < NEAR


@pytest.mark.parametrize("prompt", ["def area(", "import os\n", "class Stack:\n    def push("])
def test_greedy_tokens_are_the_model_s_own(model, tokenizer, engine, prompt):
    given = tokenizer(prompt, return_tensors="pt")
    more = {"max_new_tokens": 24, "do_sample": False}
    theirs = model.generate(**given, **more)
    ours = model.generate(**given, **more, custom_generate=hf.generate, draft=engine)
    assert ours.dtype == theirs.dtype
    assert same(model, ours, theirs)


def test_a_batch_is_padded_as_transformers_pads_it(model, tokenizer, engine):
    given = tokenizer(["def area(", "x"], return_tensors="pt", padding=True)
    more = {"max_new_tokens": 8, "do_sample": False, "custom_generate": hf.generate}
    both = model.generate(**given, **more, draft=engine)
    width = given["input_ids"].shape[1]
    assert bool((both[:, :width] == given["input_ids"]).all())
    assert both.shape == (2, width + 8)
    for i, prompt in enumerate(["def area(", "x"]):
        alone = model.generate(**tokenizer(prompt, return_tensors="pt"), **more, draft=engine)
        assert both[i, width:].tolist() == alone[0, -8:].tolist()
    [first] = set(both[:1, width].tolist())
    ended = model.generate(**given, **more, draft=engine, eos_token_id=first)
    assert ended[0, width] == first
    assert set(ended[0, width + 1 :].tolist()) <= {tokenizer.pad_token_id}


def test_samples_repeat_with_torch_s_seed(model, tokenizer, engine):
    import torch

    given = tokenizer("def area(", return_tensors="pt")
    more = {"max_new_tokens": 12, "do_sample": True, "top_k": 50, "temperature": 0.9}

    def sample(seed):
        torch.manual_seed(seed)
        found = model.generate(
            **given, **more, num_return_sequences=2, custom_generate=hf.generate, draft=engine
        )
        return found.tolist()

    first = sample(1)
    assert first == sample(1) != sample(2)
    assert first[0] != first[1]


def test_an_engine_is_made_once_for_a_draft(model, tokenizer, monkeypatch):
    made = []
    real = Engine.from_pretrained

    def counted(*given, **more):
        made.append(given)
        return real(*given, **{**more, "num_threads": 1})

    monkeypatch.setattr(Engine, "from_pretrained", counted)
    given = tokenizer("def area(", return_tensors="pt")
    more = {"max_new_tokens": 4, "do_sample": False, "custom_generate": hf.generate}
    draft = str(demo_pair.demo_folder("draft"))
    texts = [model.generate(**given, **more, draft=d).tolist() for d in (None, draft, None, draft)]
    assert texts[0] == texts[1] == texts[2] == texts[3]
    assert [name for _, name in made] == [None, draft]
    for engine in hf._engines.pop(model).values():
        engine.close()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"no_repeat_ngram_size": 2}, "NoRepeatNGramLogitsProcessor"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"max_time": 1.0}, "MaxTimeCriteria"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_what_the_engine_lacks_is_refused(model, tokenizer, engine, more, message):
    given = tokenizer("def area(", return_tensors="pt")
    with pytest.raises(InvalidInputError, match=message):
        model.generate(**given, max_new_tokens=4, custom_generate=hf.generate, draft=engine, **more)


def test_padding_in_the_middle_is_refused():
    assert hf._unpadded([1, 2, 3], [0, 1, 1]) == [2, 3]
    assert hf._unpadded([1, 2, 3], None) == [1, 2, 3]
    with pytest.raises(InvalidInputError, match="attention_mask"):
        hf._unpadded([1, 2, 3], [1, 0, 1])
