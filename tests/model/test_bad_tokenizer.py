"""Contract under test: a tokenizer.json is untrusted. Every fault raises an error of one sentence.
The library that reads the file must not raise errors of its own, and must not end the process."""

import json

import pytest

from sbrt import Engine, InvalidInputError, SamplingParams
from sbrt.model.tokenizer import Tokenizer, check_pair


def refused(call, *names):
    with pytest.raises(InvalidInputError) as caught:
        call()
    sentence = str(caught.value)
    assert all(name in sentence for name in names), sentence
    assert "\n" not in sentence
    assert len(sentence) < 600


def changed_tokenizer(make, folder, change):
    make.write_tokenizer(folder)
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    return Tokenizer(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw.pop("model"), ["Model"]),
        (lambda raw: raw["model"].pop("vocab"), []),
        (lambda raw: raw["model"].update(vocab=[]), []),
        (lambda raw: raw["model"].update(vocab={"a": -1}, merges=[]), []),
        (lambda raw: raw["model"].update(vocab={"a": 2**32}, merges=[]), []),
        (lambda raw: raw["model"].update(merges=["no such"]), []),
        (lambda raw: raw["model"].update(vocab={"\ud800": 0}, merges=[]), []),
        # Without sbrt's own check the library would end the process in the next two cases.
        (lambda raw: raw["model"].update(continuing_subword_prefix="too long"),
         ["continuing_subword_prefix", "too long"]),
        (lambda raw: raw["model"].update(continuing_subword_prefix=5), ["prefix"]),
        (lambda raw: (raw["model"].update(vocab={}, merges=[]), raw.update(added_tokens=[])),
         ["found none"]),
        (lambda raw: raw.update(pre_tokenizer={"type": "Split"}), []),
    ],
)  # fmt: skip
def test_a_tokenizer_that_cannot_be_is_refused(make, tmp_path, change, words):
    refused(lambda: changed_tokenizer(make, tmp_path, change), "tokenizer.json", *words)


def test_a_prompt_that_the_tokenizer_fails_on_is_refused(make, tmp_path):
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "none"}
    found = changed_tokenizer(make, tmp_path, lambda raw: raw.update(model=model, added_tokens=[]))
    refused(lambda: found.encode("b", 10), "prompt", "tokenizer.json")
    refused(lambda: found.word_ids("b"), "bad_words", "tokenizer.json")


def test_huge_ids_cost_no_more_than_small_ones(make, tmp_path):
    """The check must compare only the tokens that exist. It must not go through the four billion
    ids between them."""

    def tokens(name, **words):
        (tmp_path / name).mkdir()
        change = {"vocab": {"<|endoftext|>": 0} | words, "merges": []}
        return changed_tokenizer(make, tmp_path / name, lambda raw: raw["model"].update(change))

    one, two = tokens("one", a=1, b=2**32 - 1), tokens("two", a=1, c=2**32 - 1)
    check_pair(one, one)
    refused(lambda: check_pair(one, two), f"token {2**32 - 1}", "'b'", "'c'")


@pytest.mark.parametrize(
    "token",
    ["\ud800", 5, ["x"], {"content": 7}, {}, None, "no such token", "<|endoftext|>",
     {"content": "<|endoftext|>"}, {"content": "<|endoftext|>", "lstrip": 1}],
)  # fmt: skip
def test_the_tokenizers_end_token_ends_nothing(make, tmp_path, token):
    """The model's files say which ids end an answer, as in transformers. The end token in
    tokenizer_config.json must have no effect."""
    folder = make.checkpoint(tmp_path / "m", eos_token_id=None)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    with Engine.from_pretrained(folder, num_threads=1) as engine:
        assert engine.pair.eos == set()


def test_a_tokenizer_may_know_more_tokens_than_its_model_has_rows(make, tmp_path):
    folder = make.checkpoint(tmp_path / "m", vocab_size=290, eos_token_id=3)
    with Engine.from_pretrained(folder, num_threads=1) as engine:
        assert (engine.pair.vocab, engine.pair.eos) == (290, {3})
        assert engine.generate([1, 2], SamplingParams(temperature=0, max_tokens=4))
        refused(lambda: engine.generate([290]), "prompt", "from 0 to 289", "290")
