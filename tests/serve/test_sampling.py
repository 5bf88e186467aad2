"""Contract under test: penalties, bias, masks, stops and defaults affect the tokens and the text.
With each of them, every method's answer equals that of plain decoding."""

import json
from itertools import pairwise

import pytest

from sbrt import Engine, InvalidInputError, SamplingParams
from sbrt.methods import METHODS
from sbrt.serve.shaping import banned

END = 0  # the end-of-sequence id, a special token
SAMPLING = {"temperature": 0.8, "top_p": 0.95, "seed": 3, "max_tokens": 40, "ignore_eos": True}
SHAPED = {
    "repetition": {"repetition_penalty": 1.3},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 0.7},
    "rewarded": {"frequency_penalty": -0.5, "presence_penalty": -1.0},
    "bias": {"logit_bias": {i: 3.0 if i % 2 else -100.0 for i in range(100)}},
    "allowed": {"allowed_token_ids": list(range(30, 90))},
    "words": {"bad_words": [*"aeiouGVZI", "self.items", "for i"]},
    "min_tokens": {"min_tokens": 30, "stop_token_ids": list(range(1, 120))},
    "all": {
        "repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3,
        "logit_bias": {40: 2.0}, "bad_words": ["a", "or"], "min_tokens": 20, "stop": ["e", "1"],
        "stop_token_ids": [50, 51], "min_p": 0.01, "top_k": 100,
    },
}  # fmt: skip


def one(engine, prompt, method=None, **given):
    return engine.generate(prompt, SamplingParams(**given), method=method)[0].outputs[0]


@pytest.mark.parametrize("temperature", [0, 0.8])
@pytest.mark.parametrize("name", SHAPED)
def test_every_method_equals_plain_decoding(engine, prompts, name, temperature):
    given = SAMPLING | {"temperature": temperature} | SHAPED[name]
    for prompt in prompts[:2]:
        wanted = one(engine, prompt, "none", **given)
        assert wanted.token_ids != one(engine, prompt, "none", **SAMPLING).token_ids
        for method in METHODS[1:]:
            got = one(engine, prompt, method, **given)
            assert (got.token_ids, got.text) == (wanted.token_ids, wanted.text)
            assert (got.finish_reason, got.stop_reason) == (
                wanted.finish_reason,
                wanted.stop_reason,
            )


def test_a_strong_presence_penalty_and_bias_do_what_they_say(engine, prompts):
    banned_half = {i: -100.0 for i in range(150)}
    ids = one(engine, prompts[0], **SAMPLING, logit_bias=banned_half).token_ids
    assert min(ids) >= 150
    ids = one(engine, prompts[0], **SAMPLING, allowed_token_ids=[7, 9]).token_ids
    assert set(ids) == {7, 9}
    often = one(engine, prompts[0], **SAMPLING, frequency_penalty=2, repetition_penalty=5).token_ids
    assert len(set(often)) == 40  # no repetition


@pytest.mark.parametrize("method", ["none", "specbranch"])
def test_bad_words_never_come(engine, prompts, plain, method):
    given = {"temperature": 0, "max_tokens": 40, "ignore_eos": True}
    for prompt in prompts:
        ids = plain[prompt]
        word = engine.pair.tokenizer.decode(ids[4:6])
        if not word.strip() or "\ufffd" in word:
            continue
        sequences = banned((word,), engine.pair.tokenizer, engine.pair.vocab)
        found = one(engine, prompt, method, **given, bad_words=[word]).token_ids
        for sequence in sequences:
            n = len(sequence)
            assert all(found[i : i + n] != sequence for i in range(len(found)))


def test_a_word_is_banned_where_the_prompt_ends_inside_it(engine, prompts, plain):
    """The first token would complete a bad word that begins at the prompt's end, so it is
    banned."""
    prompt_ids, first = engine.encode(prompts[0]), plain[prompts[0]][0]
    tokenizer = engine.pair.tokenizer
    word = tokenizer.decode([prompt_ids[-1], first])
    if banned((word,), tokenizer, engine.pair.vocab)[0] != [prompt_ids[-1], first]:
        pytest.skip("the two tokens merge")
    assert one(engine, prompts[0], temperature=0, bad_words=[word]).token_ids[0] != first


def test_words_are_banned_with_and_without_a_leading_space(engine):
    tokenizer = engine.pair.tokenizer
    bare, spaced = banned((" print",), tokenizer, engine.pair.vocab)
    assert (tokenizer.decode(bare), tokenizer.decode(spaced)) == ("print", " print")


def test_no_token_left_is_an_error(engine, prompts):
    answer = one(engine, prompts[0], min_tokens=1, allowed_token_ids=[5], stop_token_ids=[5])
    assert (answer.finish_reason, answer.token_ids) == ("error", [])
    assert "no token" in answer.stop_reason


# --- min_tokens ---


@pytest.mark.parametrize("method", METHODS)
def test_no_end_comes_before_min_tokens(engine, prompts, method):
    stops = list(range(1, 300, 2))
    for least in (1, 2, 5, 17):
        given = {"temperature": 0, "max_tokens": 40, "stop_token_ids": stops}
        answer = one(engine, prompts[0], method, **given, min_tokens=least)
        assert len(answer.token_ids) > least
        assert not set(answer.token_ids[:least]) & {*stops, END}


@pytest.mark.usefixtures("each_round")
def test_stop_strings_are_not_looked_for_before_min_tokens(engine, prompts, plain):
    given = {"temperature": 0, "max_tokens": 40, "ignore_eos": True}
    whole = one(engine, prompts[0], **given)
    texts = [
        o.outputs[0].text for o in engine.stream(prompts[0], SamplingParams(**given), method="none")
    ]
    ends = dict(enumerate(map(len, texts), 1))
    tried = 0
    for stop in {a + b for a, b in pairwise(whole.text)}:
        for least in (0, 5, 20):
            answer = one(engine, prompts[0], **given, stop=stop, min_tokens=least)
            # The answer ends at the first stop string that ends after the text of `least` tokens.
            before = ends.get(least, 0)
            at = whole.text.find(stop, max(0, before - len(stop) + 1))
            assert answer.finish_reason == ("stop" if at >= 0 else "length")
            if at >= 0:
                assert answer.text == whole.text[:at]
                assert len(answer.token_ids) > least
                tried += least > 0
    assert tried > 5


# --- text ---


@pytest.mark.parametrize("method", ["none", "specbranch"])
def test_the_stop_string_can_stay(engine, prompts, method):
    given = {"temperature": 0, "max_tokens": 40, "ignore_eos": True}
    whole = one(engine, prompts[0], **given)
    for begin in range(0, len(whole.text) - 5, 5):
        stop = whole.text[begin : begin + 5]
        without = one(engine, prompts[0], method, **given, stop=stop)
        params = SamplingParams(**given, stop=stop, include_stop_str_in_output=True)
        answer = engine.generate(prompts[0], params, method=method)[0].outputs[0]
        assert answer.text == without.text + stop
        assert answer.token_ids == without.token_ids
        streamed = "".join(o.delta for o in engine.stream(prompts[0], params, method=method))
        assert streamed == answer.text


def test_a_stop_tokens_text_can_stay(engine, prompts, plain):
    token = plain[prompts[0]][5]
    given = {"temperature": 0, "max_tokens": 40, "stop_token_ids": [token], "ignore_eos": True}
    without = one(engine, prompts[0], **given)
    answer = one(engine, prompts[0], **given, include_stop_str_in_output=True)
    assert answer.token_ids == without.token_ids
    assert answer.text == engine.pair.tokenizer.decode(answer.token_ids)
    assert answer.text.startswith(without.text)
    assert len(answer.text) > len(without.text)


def test_special_tokens_can_stay(engine, prompts):
    given = {"temperature": 0, "max_tokens": 6, "ignore_eos": True, "allowed_token_ids": [END]}
    assert one(engine, prompts[0], **given).text == ""
    shown = one(engine, prompts[0], **given, skip_special_tokens=False)
    assert shown.text == "<|endoftext|>" * 6
    cut = one(engine, prompts[0], **given, skip_special_tokens=False, stop="text|><|end")
    assert cut.text == "<|endof"
    given |= {"ignore_eos": False}
    ended = one(engine, prompts[0], **given, include_stop_str_in_output=True)
    assert (ended.text, ended.token_ids) == ("", [END])
    given |= {"skip_special_tokens": False}
    ended = one(engine, prompts[0], **given, include_stop_str_in_output=True)
    assert (ended.text, ended.finish_reason) == ("<|endoftext|>", "stop")


# --- what an engine refuses ---


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logit_bias", {300: 1.0}),
        ("allowed_token_ids", [1, 300]),
        ("allowed_token_ids", [2**31 - 1]),
    ],
)
def test_a_token_outside_the_vocabulary_is_refused(engine, field, value):
    with pytest.raises(InvalidInputError, match=f"{field}, token id: .* from 0 to 299"):
        engine.generate("x", SamplingParams(**{field: value}))


def test_words_need_a_tokenizer(folders):
    with Engine.from_pretrained(*folders, skip_tokenizer_init=True) as bare:
        with pytest.raises(InvalidInputError, match=r"bad_words: .*skip_tokenizer_init"):
            bare.generate([1], SamplingParams(bad_words=["x"]))
        params = SamplingParams(repetition_penalty=1.2, min_tokens=4, seed=1)
        assert len(bare.generate([1, 2], params)[0].outputs[0].token_ids) > 4


# --- generation_config.json ---


def with_generation(make, folder, raw):
    make.checkpoint(folder, weights=make.weights(make.config(), seed=1))
    text = raw if isinstance(raw, str) else json.dumps(raw)
    (folder / "generation_config.json").write_text(text)
    return folder


def test_generation_config_gives_the_defaults(make, tmp_path, prompts):
    raw = {
        "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "repetition_penalty": 1.2,
        "max_new_tokens": 23, "eos_token_id": [0, 299], "do_sample": True, "typical_p": None,
    }  # fmt: skip
    wanted = SamplingParams(
        temperature=0.7, top_p=0.9, top_k=40, min_p=0.01, repetition_penalty=1.2, max_tokens=23
    )
    with Engine.from_pretrained(with_generation(make, tmp_path / "t", raw), seed=5) as engine:
        assert engine.pair.defaults == wanted
        by_default = engine.generate(prompts[0])[0].outputs[0].token_ids
    with Engine.from_pretrained(tmp_path / "t", seed=5) as engine:
        assert engine.generate(prompts[0], wanted)[0].outputs[0].token_ids == by_default
        # If a request has parameters, they replace all defaults of the engine.
        plain = engine.generate(prompts[0], SamplingParams(ignore_eos=True))[0].outputs[0]
        assert len(plain.token_ids) == 16
        streamed = list(engine.stream(prompts[0]))[-1]
        engine.add_request("a", prompts[0])
        stepped = []
        while engine.has_unfinished_requests():
            stepped += engine.step()
    for output in (streamed, stepped[-1]):
        assert len(output.outputs[0].token_ids) <= 23


def test_without_a_generation_config_the_defaults_are_vllms(engine):
    assert engine.pair.defaults == SamplingParams()


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ({"top_k": -1}, {"top_k": 0}), ({"top_k": -1.0}, {"top_k": 0}),
        ({"top_k": 50.0, "max_new_tokens": 8.0}, {"top_k": 50, "max_tokens": 8}),
    ],
)  # fmt: skip
def test_a_generation_config_is_read_as_it_is_meant(make, tmp_path, raw, wanted):
    with Engine.from_pretrained(with_generation(make, tmp_path / "t", raw)) as engine:
        assert engine.pair.defaults == SamplingParams(**wanted)


@pytest.mark.parametrize(
    "raw",
    [
        {"temperature": -1}, {"temperature": "hot"}, {"top_p": 0}, {"top_k": 1.5}, {"top_k": -2},
        {"min_p": 2}, {"repetition_penalty": 0}, {"max_new_tokens": -1}, {"top_k": True},
        {"top_k": False}, {"top_k": "-1"}, {"max_new_tokens": 1e300}, '{"temperature": 1e999}',
    ],
    ids=str,
)  # fmt: skip
def test_defaults_that_cannot_be_are_refused_where_they_are_used(make, tmp_path, one_sentence, raw):
    [name] = json.loads(raw) if isinstance(raw, str) else raw
    words = ("generation_config.json", {"max_new_tokens": "max_tokens"}.get(name, name))
    with Engine.from_pretrained(with_generation(make, tmp_path / "t", raw)) as engine:
        assert engine.generate([1], SamplingParams(max_tokens=1))[0].finished
        one_sentence(lambda: engine.generate([1]), *words)
        one_sentence(lambda: engine.stream([1]), *words)
        one_sentence(lambda: engine.add_request("r", [1]), *words)
        assert engine.generate([]) == []


@pytest.mark.parametrize("raw", ['{"temperature": NaN}', "[]", "{", ""], ids=str)
def test_a_generation_config_that_is_no_json_is_refused(make, tmp_path, raw):
    folder = with_generation(make, tmp_path / "t", raw)
    with pytest.raises(InvalidInputError, match=r"generation_config\.json") as caught:
        Engine.from_pretrained(folder)
    assert "\n" not in str(caught.value)
