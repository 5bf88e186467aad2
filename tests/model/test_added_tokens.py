"""Contract under test: files next to a tokenizer.json may define more tokens. These tokens must
have the same ids as in transformers, and give the same prompts and text."""

import json
import random

import pytest
from transformers import PreTrainedTokenizerFast

from sbrt import Engine, InvalidInputError, SamplingParams
from sbrt.model.tokenizer import Tokenizer, check_pair

NAMES = ["<|im_start|>", "<|im_end|>", "<think>", "<pad>", "Stack", "def", "<|endoftext|>", "é"]
FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")
TEXT = "a <|im_start|>def Stack(x) <think>\n<|im_end|> <pad>é<|endoftext|> defStack "


def entry_of(rng, name):
    return {"content": name} | {flag: rng.random() < 0.4 for flag in FLAGS}


def named_of(rng, kind):
    """Return {name: special token}. kind: fields that are added to a token that is written as an
    object."""
    keys = rng.sample(["bos_token", "eos_token", "pad_token", "image_token", "audio_token"], 3)
    found = {key: rng.choice(NAMES) for key in keys[:2]}
    return found | {keys[2]: kind | entry_of(rng, rng.choice(NAMES))}


def some_files(rng, first):
    """Return {file: content} of files next to a tokenizer.json that has the ids 0 to first - 1."""
    names = rng.sample(NAMES, rng.randrange(5))
    config = named_of(rng, {"__type": "AddedToken"})
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in ("extra_special_tokens", "additional_special_tokens"):
        if rng.random() < 0.3:
            config[key] = rng.sample(NAMES, 2)
    if rng.random() < 0.2:
        config["extra_special_tokens"] = {"video_token": rng.choice(NAMES), "x": rng.choice(NAMES)}
    files = {"tokenizer_config.json": config}
    if rng.random() < 0.5:
        ids = [first + i + rng.choice([0, 0, 0, 7]) * i for i in range(len(names))]
        decoder = {str(i): entry_of(rng, name) for i, name in zip(ids, names, strict=True)}
        config["added_tokens_decoder"] = decoder
    if rng.random() < 0.5:
        files["added_tokens.json"] = {name: first + i for i, name in enumerate(names)}
    if rng.random() < 0.3:
        extra = {rng.choice(["extra", "additional"]) + "_special_tokens": rng.sample(NAMES, 2)}
        files["special_tokens_map.json"] = named_of(rng, {}) | extra
    return files


def write(folder, files):
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def check_same(folder):
    ours = Tokenizer(folder / "tokenizer.json")
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    assert {token: i for i, token in ours.tokens.items()} == theirs.get_vocab()
    ids = theirs(TEXT).input_ids
    assert ours.encode(TEXT, 1000) == ids
    every = [*ids, *range(ours.size)]
    for skip in (True, False):
        want = theirs.decode(every, skip_special_tokens=skip)
        assert ours.decode(every, skip_special=skip) == want


@pytest.mark.parametrize("kind", ["write_tokenizer", "write_byte_fallback"])
def test_added_tokens_are_those_of_transformers(make, tmp_path, kind):
    rng = random.Random(kind)
    getattr(make, kind)(tmp_path)
    first = Tokenizer(tmp_path / "tokenizer.json").size
    for i in range(80):
        (folder := tmp_path / str(i)).mkdir()
        getattr(make, kind)(folder)
        check_same(write(folder, some_files(rng, first)))


def test_a_folder_of_tokenizer_json_alone(make, tmp_path):
    make.write_tokenizer(tmp_path, extra=["<|im_start|>"])
    check_same(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": []}, ["added_tokens_decoder", "object"]),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "y"}}}, ["'x'"]),
        ("tokenizer_config.json", {"added_tokens_decoder": {"-1": {"content": "y"}}}, ["'-1'"]),
        ("tokenizer_config.json", {"added_tokens_decoder": {"300": "y"}}, ["objects", "'y'"]),
        ("tokenizer_config.json", {"added_tokens_decoder": {"300": {}}}, ["[300].content", "None"]),
        ("tokenizer_config.json", {"added_tokens_decoder": {"300": {"content": "\ud800"}}},
         ["[300].content", "UTF-8"]),
        ("tokenizer_config.json", {"added_tokens_decoder": {"300": {"content": "y", "lstrip": 1}}},
         ["[300].lstrip", "True or False"]),
        ("added_tokens.json", {"y": "300"}, ["id of 'y'", "integer"]),
        ("added_tokens.json", {"": 300}, ["token", "''"]),
        ("added_tokens.json", [], ["object"]),
    ],
)  # fmt: skip
def test_added_tokens_that_cannot_be_are_refused(
    make, tmp_path, one_sentence, file, content, words
):
    make.write_tokenizer(tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    one_sentence(lambda: Tokenizer(tmp_path / "tokenizer.json"), file, *words)


def folder_of(make, folder, vocab, **generation):
    """Write a model with `vocab` rows of logits and 300 tokens in its tokenizer.json. Another file
    adds <|im_end|> as token 300."""
    make.checkpoint(folder, vocab_size=vocab, eos_token_id=None)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    write(folder, {"added_tokens.json": {"<|im_end|>": 300}})
    return folder


def test_an_added_token_is_said_and_ends_an_answer(make, tmp_path):
    """The model has 320 logits and 301 tokens. Ids of logits without a token must never be
    sampled."""
    folder = folder_of(make, tmp_path / "m", 320, eos_token_id=300)
    with Engine.from_pretrained(folder, num_threads=1) as engine:
        assert (engine.pair.vocab, engine.pair.eos) == (301, {300})
        assert engine.encode("a<|im_end|>")[-1] == 300
        params = SamplingParams(temperature=0, max_tokens=8, logit_bias={300: 100})
        answer = engine.generate("a", params)[0].outputs[0]
        assert (answer.token_ids, answer.finish_reason) == ([300], "stop")


@pytest.mark.parametrize(
    ("vocab", "end", "words"),
    [
        (320, 301, ["expected a token of", "tokenizer.json", "got 301"]),
        (300, 300, ["from 0 to 299", "got 300"]),  # token 300 has no logit
        (320, 320, ["from 0 to 319", "got 320"]),
        (320, [[300]], ["integer", "[300]"]),
        (320, "300", ["integer", "'300'"]),
        (320, -1, ["from 0 to 319", "-1"]),
        (320, True, ["integer", "True"]),
    ],
)
def test_an_end_id_that_is_no_token_is_refused(make, tmp_path, one_sentence, vocab, end, words):
    folder = folder_of(make, tmp_path / "m", vocab, eos_token_id=end)
    call = lambda: Engine.from_pretrained(folder, num_threads=1)  # noqa: E731
    one_sentence(call, "generation_config.json, eos_token_id", *words)


def test_a_pair_has_the_tokens_of_all_files(make, tmp_path, one_sentence):
    for name, token in (("one", "<|im_end|>"), ("two", "<|im_end|>"), ("three", "<other>")):
        (tmp_path / name).mkdir()
        make.write_tokenizer(tmp_path / name)
        write(tmp_path / name, {"added_tokens.json": {token: 300}})
    one, two, three = (Tokenizer(tmp_path / n / "tokenizer.json") for n in ("one", "two", "three"))
    check_pair(one, two)
    one_sentence(lambda: check_pair(one, three), "token 300", "<|im_end|>", "<other>")


JUNK = [
    None, True, 5, -1, 1e300, "", "x", "\ud800", [], {}, ["x", 5, None, {}], {"content": 5},
    {"content": "x", "lstrip": "y"}, {"content": "<q>", "special": True}, {"a": {"b": []}},
    "a" * 9999, {"300": {"content": "z"}}, {"300": {}}, {"9" * 30: {"content": "z"}}, [["x"]],
    {"\u00b2": {"content": "z"}},
]  # fmt: skip
KEYS = ["added_tokens_decoder", "extra_special_tokens", "additional_special_tokens", "eos_token",
        "image_token", "__type"]  # fmt: skip


def test_junk_in_these_files_is_refused_or_ignored(make, tmp_path):
    rng, seen = random.Random(1), []
    make.write_tokenizer(tmp_path)
    for _ in range(400):
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            given = {rng.choice(KEYS): rng.choice(JUNK) for _ in range(rng.randrange(4))}
            write(tmp_path, {name: given})
        more = {rng.choice(["x", "", "\ud800"]): rng.choice([*JUNK, 300]) for _ in range(2)}
        write(tmp_path, {"added_tokens.json": rng.choice([{}, {}, more, []])})
        try:
            tokenizer = Tokenizer(tmp_path / "tokenizer.json")
            tokenizer.decode(tokenizer.encode("a x", 100))
            seen.append("read")
        except InvalidInputError as error:
            seen.append("refused" if "\n" not in str(error) else "more than a sentence")
    assert set(seen) == {"read", "refused"}
    assert min(seen.count("read"), seen.count("refused")) > 50
