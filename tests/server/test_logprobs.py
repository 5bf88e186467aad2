"""Contract under test: the log-probs of completions and of chats are those of the engine, in
OpenAI's formats, in whole answers and in chunks. With `echo` the log-probs of the prompt come
first, as lm-eval expects."""

from __future__ import annotations

import dataclasses

import openai
import pytest

from sbrt import SamplingParams
from sbrt.server.logprobs import LEAST, Offsets, Spelling, by_name

PROMPT = "def area(radius):\n"
ODD = "x = '日本語 🙂🚀'\n"  # some tokens are parts of characters
SAY = [{"role": "user", "content": "def f(x):"}]
SAMPLING = {"temperature": 0.8, "seed": 6, "max_tokens": 12}


@pytest.fixture(scope="module")
def told(engine):
    """Return told(prompt, ...), which returns the engine's output of plain decoding."""

    def answer(prompt, **params):
        [output] = engine.generate(prompt, SamplingParams(**(SAMPLING | params)), method="none")
        return output

    return answer


def complete(client, prompt=PROMPT, **fields):
    response = client.post("/v1/completions", json={"prompt": prompt, **SAMPLING, **fields})
    assert response.status_code == 200, response.text
    return response


def chat(client, **fields):
    response = client.post("/v1/chat/completions", json={"messages": SAY, **SAMPLING, **fields})
    assert response.status_code == 200, response.text
    return response


def columns(ids, positions):
    """Return tokens, token_logprobs and top_logprobs in the format of a completion."""
    found = [p[i] for i, p in zip(ids, positions, strict=True)]
    return (
        [f.decoded_token for f in found],
        [f.logprob for f in found],
        [{f.decoded_token: f.logprob for f in p.values()} for p in positions],
    )


def said(logprobs):
    return tuple(logprobs[name] for name in ("tokens", "token_logprobs", "top_logprobs"))


@pytest.mark.parametrize("top", [0, 1, 5, 20])
def test_a_completion(client, told, top):
    want = told(PROMPT, logprobs=top).outputs[0]
    [choice] = complete(client, logprobs=top).json()["choices"]
    assert said(choice["logprobs"]) == columns(want.token_ids, want.logprobs)
    assert set(choice["logprobs"]) == {
        "tokens", "token_logprobs", "top_logprobs", "text_offset"
    }  # fmt: skip
    assert choice["text"] == want.text


def test_who_does_not_ask_has_null(client):
    assert complete(client).json()["choices"][0]["logprobs"] is None
    assert chat(client).json()["choices"][0]["logprobs"] is None
    assert chat(client, logprobs=False).json()["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("speculative", [False, "draft_model", "pearl", "lookup"])
def test_every_method_says_the_same(client, speculative):
    plain = complete(client, logprobs=3, echo=True, speculative=False).json()["choices"]
    assert (
        complete(client, logprobs=3, echo=True, speculative=speculative).json()["choices"] == plain
    )


@pytest.mark.parametrize("prompt", [PROMPT, ODD])
@pytest.mark.parametrize("tokens", [0, 1, 12])
def test_echo_has_the_prompts(client, told, engine, prompt, tokens):
    ids = engine.encode(prompt)
    want = told(prompt, logprobs=2, prompt_logprobs=2, max_tokens=tokens)
    [choice] = complete(client, prompt, logprobs=2, echo=True, max_tokens=tokens).json()["choices"]
    logprobs = choice["logprobs"]
    names, values, tops = said(logprobs)
    assert (values[0], tops[0]) == (None, None)
    assert len(names) == len(values) == len(tops) == len(ids) + tokens
    answer = want.outputs[0]
    all_ids = ids[1:] + answer.token_ids
    expected = columns(all_ids, want.prompt_logprobs[1:] + answer.logprobs)
    assert (names[1:], values[1:]) == expected[:2]
    # Tokens that are parts of characters may have the same text. lm-eval takes the largest value as
    # the model's choice.
    positions = want.prompt_logprobs[1:] + answer.logprobs
    assert [max(top.values()) for top in tops[1:]] == [
        max(f.logprob for f in position.values()) for position in positions
    ]
    assert choice["text"] == prompt + answer.text
    assert complete(client, ids, logprobs=2, echo=True, max_tokens=tokens).json()["choices"] == [
        choice
    ]


def test_offsets_are_where_tokens_begin(client, engine):
    [choice] = complete(client, PROMPT + ODD, logprobs=0, echo=True).json()["choices"]
    logprobs, text = choice["logprobs"], choice["text"]
    offsets = logprobs["text_offset"]
    assert offsets[0] == 0
    assert offsets == sorted(offsets)
    whole = 0
    for name, begin in zip(logprobs["tokens"], offsets, strict=True):
        if "\ufffd" not in name:
            assert text[begin : begin + len(name)] == name
            whole += 1
    assert 20 < whole < len(offsets)
    plain = complete(client, PROMPT + ODD, logprobs=0).json()["choices"][0]["logprobs"]
    prompt = len(engine.encode(PROMPT + ODD))
    assert plain["text_offset"] == [begin - offsets[prompt] for begin in offsets[prompt:]]


def joined(events):
    """Return the text and the log-probs of all chunks of a completion."""
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    text, lists = "", {name: [] for name in names}
    for event in events:
        for choice in event["choices"]:
            text += choice["text"]
            for name in names if choice["logprobs"] else ():
                lists[name] += choice["logprobs"][name]
    return text, lists


@pytest.mark.parametrize("fields", [{}, {"stop": "\n"}, {"max_tokens": 0}], ids=str)
@pytest.mark.parametrize("echo", [False, True])
def test_chunks_of_a_completion_add_up(client, tools, echo, fields):
    fields = {"logprobs": 2, "echo": echo, "return_token_ids": True, **fields}
    [whole] = complete(client, **fields).json()["choices"]
    events = tools.events_of(complete(client, stream=True, **fields))
    assert joined(events) == (whole["text"], whole["logprobs"])
    choices = [event["choices"][0] for event in events]
    assert [i for choice in choices for i in choice.get("token_ids", ())] == whole["token_ids"]
    given = [choice["prompt_token_ids"] for choice in choices if "prompt_token_ids" in choice]
    assert given == [whole["prompt_token_ids"]]
    assert (choices[-1]["logprobs"], choices[-1]["finish_reason"] is None) == (None, False)


def test_a_stop_string_cuts_them_with_the_tokens(client, told):
    text = told(PROMPT).outputs[0].text
    [choice] = complete(client, logprobs=1, stop=text[8:11], return_token_ids=True).json()[
        "choices"
    ]
    assert choice["finish_reason"] == "stop"
    assert len(choice["logprobs"]["tokens"]) == len(choice["token_ids"]) < SAMPLING["max_tokens"]


def test_several_answers_to_several_prompts(client, told):
    body = complete(client, [PROMPT, ODD], n=2, logprobs=1, echo=True).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["choices"][0]["logprobs"] != body["choices"][1]["logprobs"]
    for choice, prompt in zip(body["choices"][::2], (PROMPT, ODD), strict=True):
        assert [choice] == [
            c | {"index": choice["index"]}
            for c in complete(client, prompt, logprobs=1, echo=True).json()["choices"]
        ]


@pytest.mark.parametrize("top", [None, 0, 1, 20])
def test_a_conversation(client, told, tools, engine, top):
    fields = {} if top is None else {"top_logprobs": top}
    want = told(tools.render(SAY), logprobs=20).outputs[0]
    [choice] = chat(client, logprobs=True, **fields).json()["choices"]
    assert choice["logprobs"]["refusal"] is None
    content = choice["logprobs"]["content"]
    for entry, token, position in zip(content, want.token_ids, want.logprobs, strict=True):
        own = position[token]
        assert (entry["token"], entry["logprob"]) == (own.decoded_token, own.logprob)
        assert bytes(entry["bytes"]) == engine.pair.tokenizer.bytes_of(token)
        best = sorted(position.values(), key=lambda f: f.rank)[: top or 0]
        assert [(e["token"], e["logprob"]) for e in entry["top_logprobs"]] == [
            (f.decoded_token, f.logprob) for f in best
        ]
    events = tools.events_of(chat(client, logprobs=True, stream=True, **fields))
    chunks = [event["choices"][0]["logprobs"] for event in events]
    assert [e for chunk in chunks if chunk for e in chunk["content"]] == content
    assert (chunks[0], chunks[-1]) == (None, None)


def test_bytes_of_parts_of_characters_join(engine):
    """Tokens may be parts of characters. As OpenAI suggests, their joined bytes are the text."""
    spelling = Spelling(engine.pair.tokenizer, by_id=False)
    ids = engine.encode(ODD)
    output = engine.generate(ids, SamplingParams(max_tokens=0, prompt_logprobs=0))[0]
    entries = [
        spelling.entry(i, p[i]) for i, p in zip(ids[1:], output.prompt_logprobs[1:], strict=True)
    ]
    data = bytes(byte for entry in entries for byte in entry["bytes"])
    assert data.decode() == ODD[len(engine.pair.tokenizer.text_of(ids[0])) :]
    parts = [e for e in entries if "\ufffd" in e["token"]]
    assert parts
    for entry in parts:
        with pytest.raises(UnicodeDecodeError):
            bytes(entry["bytes"]).decode()


def test_names_by_id_never_collide(client, told):
    want = told(ODD, logprobs=3).outputs[0]
    fields = {"logprobs": 3, "return_tokens_as_token_ids": True}
    [choice] = complete(client, ODD, **fields).json()["choices"]
    assert choice["logprobs"]["tokens"] == [f"token_id:{i}" for i in want.token_ids]
    assert choice["logprobs"]["top_logprobs"] == [
        {f"token_id:{i}": f.logprob for i, f in p.items()} for p in want.logprobs
    ]


def test_prompt_logprobs_as_vllm_has_them(client, told, tools):
    def shown(output):
        return [
            p and {str(i): dataclasses.asdict(f) for i, f in p.items()}
            for p in output.prompt_logprobs
        ]

    body = complete(client, prompt_logprobs=2).json()
    assert body["choices"][0]["prompt_logprobs"] == shown(told(PROMPT, prompt_logprobs=2))
    assert body["choices"][0]["logprobs"] is None
    want = told(tools.render(SAY), prompt_logprobs=0)
    assert chat(client, prompt_logprobs=0).json()["prompt_logprobs"] == shown(want)
    response = client.post(
        "/v1/completions", json={"prompt": PROMPT, "stream": True, "prompt_logprobs": 0}
    )
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt_logprobs")


def test_openai_python_reads_them(served, told, tools):
    want = told(tools.render(SAY), logprobs=2).outputs[0]
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any") as client:
        answer = client.chat.completions.create(
            model="demo", messages=SAY, logprobs=True, top_logprobs=2, **SAMPLING
        )
        text = client.completions.create(
            model="demo", prompt=PROMPT, logprobs=1, echo=True, **SAMPLING
        )
        with pytest.raises(openai.BadRequestError, match="at most 20"):
            client.chat.completions.create(
                model="demo", messages=SAY, logprobs=True, top_logprobs=21
            )
    content = answer.choices[0].logprobs.content
    assert [e.logprob for e in content] == [
        p[i].logprob for p, i in zip(want.logprobs, want.token_ids, strict=True)
    ]
    assert all(len(e.top_logprobs) == 2 for e in content)
    assert text.choices[0].logprobs.token_logprobs[0] is None


def test_what_json_cannot_hold(engine):
    """A finite number replaces -inf. If tokens have the same text, the largest log-prob is
    returned."""
    tokenizer = engine.pair.tokenizer
    output = engine.generate(ODD, SamplingParams(max_tokens=1, logprobs=20))[0].outputs[0]
    [position] = output.logprobs
    least = {i: dataclasses.replace(f, logprob=float("-inf")) for i, f in position.items()}
    assert set(by_name(least, Spelling(tokenizer, True)).values()) == {LEAST}
    same = {i: dataclasses.replace(f, decoded_token="x") for i, f in position.items()}
    best = max(f.logprob for f in position.values())
    assert by_name(same, Spelling(tokenizer, False)) == {"x": best}
    assert Offsets(None, (), True).of([1, 2]) == [0, 0]


def test_a_client_that_tokenises_by_routes_finds_them(client, engine):
    """lm-eval requests /tokenizer_info and /tokenize before it uses the server's tokenizer."""
    info = client.get("/tokenizer_info").json()
    assert "chat_template" in info
    assert engine.pair.eos >= set(engine.encode(info["eos_token"]))
    body = client.post("/tokenize", json={"prompt": ODD, "add_special_tokens": False}).json()
    assert body["tokens"] == engine.encode(ODD)
