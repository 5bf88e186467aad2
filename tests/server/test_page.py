"""Contract under test: the page at / is one file that loads nothing from elsewhere. Its data about
an answer is consistent: a text for each token, the rounds, both lanes."""

from __future__ import annotations

import re

import pytest

PROMPT = {"prompt": "def area(", "temperature": 0, "max_tokens": 24, "return_trace": True}


def test_the_page_is_one_file_that_loads_nothing(client):
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert re.findall(r"https?:|\bsrc=|@import|\bimport\(|innerHTML|eval\(", response.text) == []
    assert re.findall(r'href="(?!data:)', response.text) == []


def test_the_page_opens_without_the_key_and_while_the_engine_loads(local):
    assert local(api_key="secret")("GET", "/").status_code == 200
    assert local(loaded=False)("GET", "/").status_code == 200


def test_the_page_learns_which_methods_there_are(client, engine):
    [card, _] = client.get("/v1/models").json()["data"]
    assert card["sbrt"] == {
        "method": engine.method.text,
        "methods": ["none", "draft_model", "lookup", "adaedl", "tree", "pearl"],
        "has_chat_template": True,
    }


def check_trace(choice, count):
    """Check that a choice's trace has `count` tokens and matches its text. Return the trace's
    rounds."""
    trace, rounds = choice["trace"], choice["trace"]["rounds"]
    assert "".join(trace["tokens"]) == choice["text"]
    assert len(trace["tokens"]) == sum(r["tokens"] for r in rounds) == count
    assert all(r["tokens"] <= r["n"] + 1 and r["n"] <= r["depth"] for r in rounds)
    assert all(r["tokens"] == r["n"] + 1 for r in rounds[:-1])
    for spans in trace["lanes"].values():
        assert all(0 <= begin <= end for _, begin, end in spans)
        assert [begin for _, begin, _ in spans] == sorted(begin for _, begin, _ in spans)
    assert "select" in {name for name, _, _ in trace["lanes"]["target"]}
    return rounds


@pytest.mark.parametrize("method", ["none", "lookup", "draft_model", "pearl"])
def test_a_trace_tells_where_each_token_came_from(client, plain, method):
    body = {**PROMPT, "speculative": method, "n": 2, "temperature": 1, "seed": 5}
    answer = client.post("/v1/completions", json=body).json()
    for choice in answer["choices"]:
        rounds = check_trace(choice, 24)
        assert bool(choice["trace"]["lanes"]["draft"]) == (method in ("draft_model", "pearl"))
        assert {r["branches"] for r in rounds} == {int(method == "pearl")}
    spec = answer["metrics"]["speculative_decoding"]
    every = [r for choice in answer["choices"] for r in choice["trace"]["rounds"]]
    assert sum(r["n"] for r in every) == spec["num_accepted_draft_tokens"]
    assert sum(r["depth"] for r in every) == spec["num_draft_tokens"]
    assert len(every) == spec["num_spec_steps"]
    assert (
        answer["choices"][0]["text"]
        == plain("def area(", temperature=1, seed=5, max_tokens=24).text
    )


def test_a_stream_has_the_trace_where_the_answer_ends(client, tools):
    chunks = tools.events_of(client.post("/v1/completions", json={**PROMPT, "stream": True}))
    *parts, end = (chunk["choices"][0] for chunk in chunks)
    assert not any("trace" in part for part in parts)
    text = "".join(part["text"] for part in parts)
    check_trace({**end, "text": text}, 24)


@pytest.mark.parametrize("prompt", ["def area(", "s = '日本"])
@pytest.mark.parametrize("is_kept", [False, True])
def test_the_texts_of_tokens_end_where_a_stop_string_cuts(client, plain, prompt, is_kept):
    stop = plain(prompt, temperature=0, max_tokens=24).text[9:12]
    fields = {"prompt": prompt, "stop": stop, "include_stop_str_in_output": is_kept}
    [choice] = client.post("/v1/completions", json={**PROMPT, **fields}).json()["choices"]
    trace = choice["trace"]
    assert choice["finish_reason"] == "stop"
    assert "".join(trace["tokens"]) == choice["text"]
    assert len(trace["tokens"]) == sum(r["tokens"] for r in trace["rounds"])


def test_nobody_who_did_not_ask_gets_a_trace(client):
    body = {**PROMPT, "return_trace": False}
    assert "trace" not in client.post("/v1/completions", json=body).json()["choices"][0]
    wrong = client.post("/v1/completions", json={**PROMPT, "return_trace": 1})
    assert wrong.json()["error"]["param"] == "return_trace"
