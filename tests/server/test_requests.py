"""Contract under test: every field of a body has its effect, and null means not given. A wrong
field is named in `param`. An unknown field is ignored and logged once."""

from __future__ import annotations

import json
import logging

import pytest

PROMPT = "def area("
SAY = [{"role": "user", "content": "def f(x):"}]
GREEDY = {"temperature": 0, "max_tokens": 8}


def text_of(response):
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["text"]


def complete(client, prompt=PROMPT, **fields):
    return client.post("/v1/completions", json={"prompt": prompt, **GREEDY, **fields})


def chat(client, messages=SAY, **fields):
    return client.post("/v1/chat/completions", json={"messages": messages, **GREEDY, **fields})


FIELDS = [
    {"temperature": 0.7, "seed": 3},
    {"temperature": 1.0, "seed": 4, "top_p": 0.5},
    {"temperature": 1.0, "seed": 4, "top_k": 2},
    {"temperature": 1.0, "seed": 4, "min_p": 0.3},
    {"stop": "\n"},
    {"stop": ["x", "\n"], "include_stop_str_in_output": True},
    {"stop_token_ids": [270]},
    {"max_tokens": 3},
    {"max_tokens": 0},
    {"min_tokens": 6, "stop": ":"},
    {"presence_penalty": 1.5},
    {"frequency_penalty": 1.5},
    {"repetition_penalty": 1.5},
    {"allowed_token_ids": [288, 330]},
    {"bad_words": ["self"]},
    {"ignore_eos": True},
    {"skip_special_tokens": False},
]


@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: "-".join(fields))
def test_a_field_does_what_it_does_in_the_engine(client, plain, fields):
    want = plain(PROMPT, **{**GREEDY, **fields})
    body = complete(client, **fields, return_token_ids=True).json()
    [choice] = body["choices"]
    assert choice["text"] == want.text
    assert choice["token_ids"] == want.token_ids
    assert choice["finish_reason"] == want.finish_reason
    assert choice["stop_reason"] == want.stop_reason
    assert body["usage"]["completion_tokens"] == len(want.token_ids)


def test_logit_bias_has_its_ids_as_text(client, plain):
    want = plain(PROMPT, **GREEDY, logit_bias={288: 50.0})
    assert text_of(complete(client, logit_bias={"288": 50})) == want.text


def test_top_k_of_minus_one_keeps_every_token(client, plain):
    want = plain(PROMPT, temperature=1.0, seed=5, max_tokens=8)
    assert text_of(complete(client, temperature=1, seed=5, top_k=-1)) == want.text


@pytest.mark.parametrize("method", [False, True, "none", "lookup", "pearl", "draft_model:gamma=2"])
def test_a_request_chooses_its_method_and_the_text_is_the_same(client, plain, method):
    response = complete(client, speculative=method)
    assert text_of(response) == plain(PROMPT, **GREEDY).text
    spec = response.json()["metrics"]["speculative_decoding"]
    gamma = {"draft_model:gamma=2": 2, False: 0, "none": 0}.get(method, 4)
    assert spec["num_spec_tokens"] == gamma
    assert len(spec["acceptance_histogram"]) == gamma + 1
    assert all(type(n) is int for n in spec["acceptance_histogram"])


def test_the_four_shapes_of_a_prompt(client, plain, engine):
    prompts = [PROMPT, "import os\n"]
    ids = [engine.encode(prompt) for prompt in prompts]
    want = [plain(prompt, **GREEDY).text for prompt in prompts]
    for many in (prompts, ids):
        choices = complete(client, many).json()["choices"]
        assert [choice["index"] for choice in choices] == [0, 1]
        assert [choice["text"] for choice in choices] == want
    assert text_of(complete(client, ids[0])) == want[0]


def test_echo_puts_the_prompt_first(client, plain, engine):
    want = PROMPT + plain(PROMPT, **GREEDY).text
    assert text_of(complete(client, echo=True)) == want
    assert text_of(complete(client, engine.encode(PROMPT), echo=True)) == want
    assert text_of(complete(client, echo=True, max_tokens=0)) == PROMPT


def test_several_answers_are_those_of_the_seed_s_completions(client, plain, engine):
    params = {"temperature": 1.0, "seed": 9, "max_tokens": 8}
    body = complete(client, [PROMPT, "x = "], n=3, best_of=3, **params).json()
    texts = [choice["text"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == list(range(6))
    assert texts[0] == plain(PROMPT, **params).text
    assert texts[3] == plain("x = ", **params).text
    assert len(set(texts[:3])) == 3
    lengths = [len(engine.encode(prompt)) for prompt in (PROMPT, "x = ")]
    assert body["usage"]["prompt_tokens"] == sum(lengths)  # each prompt counts once
    assert [c["text"] for c in complete(client, n=3, **params).json()["choices"]] == texts[:3]


def test_a_conversation_is_rendered_and_answered(client, plain, tools, engine):
    want = plain(tools.render(SAY), **GREEDY)
    body = chat(client).json()
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": want.text, "refusal": None}
    assert choice["finish_reason"] == want.finish_reason
    assert body["usage"]["prompt_tokens"] == len(engine.encode(tools.render(SAY)))
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    joined = chat(client, [{"role": "user", "content": parts}], return_token_ids=True).json()
    assert joined["prompt_token_ids"] == engine.encode(
        tools.render([{"role": "user", "content": "a\nb"}])
    )


def test_the_end_of_a_conversation(client, tools, engine):
    last = [*SAY, {"role": "assistant", "content": "return"}]
    ids = chat(client, last, continue_final_message=True, return_token_ids=True).json()
    text = tools.render(last, adds_prompt=False).removesuffix("\n")
    assert ids["prompt_token_ids"] == engine.encode(text)
    ids = chat(client, add_generation_prompt=False, return_token_ids=True).json()
    assert ids["prompt_token_ids"] == engine.encode(tools.render(SAY, adds_prompt=False))


def test_both_spellings_of_the_answer_s_length(client):
    for fields in ({"max_tokens": 3}, {"max_completion_tokens": 3, "max_tokens": None}):
        body = client.post("/v1/chat/completions", json={"messages": SAY, **fields}).json()
        assert body["usage"]["completion_tokens"] == 3
    body = chat(client, max_completion_tokens=2).json()  # overrides max_tokens
    assert body["usage"]["completion_tokens"] == 2


def test_a_completion_that_names_no_length_has_sixteen_tokens(client):
    body = client.post("/v1/completions", json={"prompt": PROMPT, "temperature": 0}).json()
    assert body["usage"]["completion_tokens"] == 16


def test_nulls_are_not_given(client, plain):
    fields = ("temperature top_p top_k min_p seed stop stop_token_ids logit_bias logprobs n stream "
              "stream_options suffix echo best_of user model speculative min_tokens "
              "presence_penalty tools response_format request_id num_ctx").split()  # fmt: skip
    given = dict.fromkeys(fields)
    want = plain(PROMPT, **GREEDY).text
    assert text_of(complete(client, **{**given, "temperature": 0})) == want


def test_unknown_fields_are_ignored_and_logged_once(client, plain, caplog):
    with caplog.at_level(logging.WARNING, "sbrt.server"):
        for _ in range(3):
            assert text_of(complete(client, num_ctx=4096)) == plain(PROMPT, **GREEDY).text
    assert [r.getMessage() for r in caplog.records if "num_ctx" in r.getMessage()] == [
        "the field 'num_ctx' is not known and is ignored"
    ]


WRONG = [
    ("prompt", 7), ("prompt", []), ("prompt", [[]]), ("prompt", ["a", 1]), ("prompt", [1.5]),
    ("prompt", [True]), ("prompt", ""), ("prompt", [99999]), ("prompt", {"a": 1}),
    ("prompt", "x " * 3000), ("prompt", ["x"] * 300), ("prompt", "\ud800"),
    ("temperature", "hot"), ("temperature", -1), ("temperature", True), ("temperature", [1]),
    ("top_p", 2), ("top_p", 0), ("top_k", 1.5), ("top_k", -2), ("min_p", 7), ("seed", "x"),
    ("seed", -1), ("seed", 2**70), ("stop", 5), ("stop", ["a", 5]), ("stop", {"a": 1}),
    ("stop", ["x"] * 100), ("stop_token_ids", ["a"]), ("stop_token_ids", [99999]),
    ("max_tokens", -1), ("max_tokens", "5"), ("max_tokens", 1.5), ("min_tokens", 100),
    ("n", 0), ("n", 1000), ("n", "2"), ("best_of", 2), ("presence_penalty", 3),
    ("frequency_penalty", "x"), ("repetition_penalty", 0), ("logit_bias", [1]),
    ("logit_bias", {"a": 1}), ("logit_bias", {"1": 1000}), ("logit_bias", {"99999": 1}),
    ("allowed_token_ids", []), ("allowed_token_ids", [99999]), ("bad_words", [""]),
    ("ignore_eos", 1), ("skip_special_tokens", "no"), ("include_stop_str_in_output", 0),
    ("stream", "yes"), ("stream", 1), ("stream_options", {"include_usage": True}),
    ("stream_options", 5), ("echo", "x"), ("suffix", "x"), ("logprobs", -2), ("logprobs", True),
    ("logprobs", 21), ("logprobs", -1), ("logprobs", 1.5), ("prompt_logprobs", 21),
    ("model", 5), ("speculative", 5), ("speculative", "magic"), ("speculative", "pearl:gamma=15"),
    ("speculative", "specbranch"), ("request_id", 5), ("priority", 3), ("use_beam_search", True),
    ("return_token_ids", "x"), ("add_special_tokens", 3), ("prompt_logprobs", -2),
    ("return_tokens_as_token_ids", 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda v: json.dumps(v)[:24])
def test_a_wrong_field_is_named(client, name, value):
    # The body is encoded here, because a lone surrogate must reach the server.
    body = json.dumps({"prompt": PROMPT, **GREEDY, name: value})
    response = client.post("/v1/completions", content=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == name
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"]


WRONG_CHAT = [
    ("messages", None), ("messages", []), ("messages", "hi"), ("messages", [1]),
    ("messages", [{"content": "x"}]), ("messages", [{"role": 5, "content": "x"}]),
    ("messages", [{"role": "user", "content": 5}]),
    ("messages", [{"role": "user", "content": [{"type": "image_url"}]}]),
    ("messages", [{"role": "user", "content": [{"type": "text"}]}]),
    ("messages", [{"role": "user", "content": "x " * 3000}]),
    ("logprobs", 1), ("top_logprobs", 3), ("top_logprobs", -2), ("prompt_logprobs", 21),
    ("tools", [{"type": "function"}]),
    ("response_format", {"type": "json_object"}), ("max_completion_tokens", -1),
    ("chat_template", "x"), ("chat_template_kwargs", [1]), ("continue_final_message", 1),
    ("chat_template_kwargs", {"messages": []}), ("modalities", ["audio"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG_CHAT, ids=lambda v: json.dumps(v)[:24])
def test_a_wrong_field_of_a_conversation_is_named(client, name, value):
    response = chat(client, **{"messages": SAY, name: value})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == name


def test_fields_that_ask_for_nothing_are_accepted(client, plain, tools):
    nothing = {
        "logprobs": False, "top_logprobs": 0, "tools": [], "tool_choice": "auto", "n": 1,
        "response_format": {"type": "text"}, "modalities": ["text"], "priority": 0, "stop": [],
        "chat_template_kwargs": {"enable_thinking": False}, "logit_bias": {}, "seed": 0,
    }  # fmt: skip
    [choice] = chat(client, **nothing).json()["choices"]
    assert choice["message"]["content"] == plain(tools.render(SAY), **GREEDY).text


def test_too_long_a_prompt_has_openai_s_code(client):
    assert complete(client, "x " * 3000).json()["error"]["code"] == "context_length_exceeded"


NO_OBJECT = [
    b"", b"{", b"[1]", b"7", b'{"prompt": NaN}', b"\xff", b"[" * 100_000,
    b'{"seed": 1' + b"0" * 5000,
]  # fmt: skip


def test_parameters_that_leave_no_token_are_the_client_s(client):
    """The only allowed token is a stop token, which must not appear before min_tokens. So no token
    is left."""
    impossible = {"allowed_token_ids": [288], "stop_token_ids": [288], "min_tokens": 2}
    response = complete(client, **impossible)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"] == "the sampling parameters leave no token"


@pytest.mark.parametrize("body", NO_OBJECT, ids=lambda body: repr(body[:12]))
def test_what_is_no_json_object_is_refused(client, body):
    response = client.post("/v1/completions", content=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"].startswith("body: expected ")


def test_tokenize_and_detokenize(client, engine, tools):
    body = client.post("/tokenize", json={"prompt": PROMPT, "return_token_strs": True}).json()
    assert body["tokens"] == engine.encode(PROMPT)
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"])
    assert body["max_model_len"] == engine.max_model_len
    back = client.post("/detokenize", json={"tokens": body["tokens"]}).json()
    assert back == {"prompt": PROMPT}
    body = client.post("/tokenize", json={"messages": SAY}).json()
    assert body["tokens"] == engine.encode(tools.render(SAY))
    for path, wrong, param in (
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": PROMPT, "messages": SAY}, "prompt"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [99999]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
    ):
        error = client.post(path, json=wrong)
        assert (error.status_code, error.json()["error"]["param"]) == (400, param)
