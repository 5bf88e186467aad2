"""Contract under test: the routes that generate nothing, the API key, the limits, and the answers
of a server that loads, is full, or has lost its engine."""

from __future__ import annotations

import dataclasses
import json
import logging
import socket
from pathlib import Path
from unittest import mock

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sbrt import AsyncEngine
from sbrt.server import app, run
from sbrt.server.protocol import Limits

PROMPT = {"prompt": "def area(", "temperature": 0, "max_tokens": 6}
ENDLESS = {"prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": True}


def error_of(response, status):
    assert response.status_code == status, response.text
    return response.json()["error"]


def test_models(client, engine):
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    assert [card["id"] for card in body["data"]] == ["demo", "alias"]
    card = body["data"][0]
    assert (card["object"], card["owned_by"], card["root"]) == ("model", "sbrt", "demo")
    assert card["max_model_len"] == engine.max_model_len
    assert type(card["created"]) is int
    assert client.get("/v1/models/alias").json()["id"] == "alias"
    assert error_of(client.get("/v1/models/other"), 404)["code"] == "model_not_found"


def test_an_answer_carries_the_name_it_was_asked_by(client):
    for name in ("demo", "alias"):
        assert (
            client.post("/v1/completions", json={**PROMPT, "model": name}).json()["model"] == name
        )
    assert client.post("/v1/completions", json=PROMPT).json()["model"] == "demo"
    error = error_of(client.post("/v1/completions", json={**PROMPT, "model": "gpt"}), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_health_ping_and_version(client):
    import sbrt

    assert [client.get(path).status_code for path in ("/health", "/ping")] == [200, 200]
    assert client.get("/version").json() == {"version": sbrt.__version__}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/v1/completions", 405), ("PUT", "/health", 405)],
)
def test_what_is_not_there_is_openai_s_error(client, method, path, status):
    error = error_of(client.request(method, path), status)
    assert error["message"].startswith("request: ")


def test_ids_of_requests(client, caplog):
    with caplog.at_level(logging.INFO, "sbrt.server.access"):
        response = client.post("/v1/completions", json=PROMPT, headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert response.json()["id"] == "cmpl-mine-1"
    assert any("POST /v1/completions 200" in m and m.endswith("mine-1") for m in caplog.messages)
    own = client.post("/v1/completions", json={**PROMPT, "request_id": "mine-2"}).json()
    assert own["id"] == "cmpl-mine-2"
    for wrong in ("a b", "x" * 200, "é", "a\tb"):
        found = client.get("/health", headers={"x-request-id": wrong.encode()})
        assert len(found.headers["x-request-id"]) == 32


def test_a_key(local):
    call = local(api_key="a secret")
    for given in (None, "Bearer wrong", "a secret", "Bearer a secret ", "Bearer é"):
        headers = {} if given is None else {"authorization": given.encode()}
        error = error_of(call("POST", "/v1/completions", json=PROMPT, headers=headers), 401)
        assert error["code"] == "invalid_api_key"
        assert call("GET", "/v1/models", headers=headers).status_code == 401
        assert call("POST", "/start_profile", headers=headers).status_code == 401
        assert call("GET", "/health", headers=headers).status_code == 200
    headers = {"authorization": "Bearer a secret"}
    assert call("POST", "/v1/completions", json=PROMPT, headers=headers).status_code == 200


def test_a_server_that_loads(local):
    call = local(loaded=False)
    for method, path in (
        ("GET", "/health"), ("GET", "/ping"), ("GET", "/v1/models"), ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"), ("POST", "/tokenize"),
    ):  # fmt: skip
        response = call(method, path)
        assert "loading" in error_of(response, 503)["message"]
        assert response.headers["retry-after"] == "1"
    assert call("GET", "/version").status_code == 200


def test_an_engine_that_is_gone(tools, template):
    async_engine = AsyncEngine(tools.demo_engine())
    gate = app(async_engine, names="demo", chat_template=template)
    call = tools.Local(gate)
    assert call("GET", "/health").status_code == 200
    async_engine.close()
    assert "closed" in error_of(call("GET", "/health"), 503)["message"]
    assert error_of(call("POST", "/v1/completions", json=PROMPT), 503)


def test_a_full_queue(local, engine):
    call, places = local(limits=Limits(waiting=2)), engine.config.max_num_seqs + 2
    for _ in range(2):
        response = call("POST", "/v1/completions", json={**PROMPT, "n": places})
        assert len(response.json()["choices"]) == places
    error = error_of(call("POST", "/v1/completions", json={**PROMPT, "n": places + 1}), 400)
    # the server never has this number of places, however long a request waits
    assert error["param"] == "n"
    more = [mock.Mock() for _ in range(2)]
    for choice in more:
        choice.stream.is_done = False
    call.service._live.update(more)
    response = call("POST", "/v1/completions", json={**PROMPT, "n": places - 1})
    assert error_of(response, 429)["code"] == "rate_limit_exceeded"
    assert response.headers["retry-after"] == "1"
    # the client has not read everything, but the engine has finished the answer
    more[0].stream.is_done = True
    response = call("POST", "/v1/completions", json={**PROMPT, "n": places - 1})
    assert response.status_code == 200


def test_limits_of_a_body(local):
    call = local(limits=Limits(body=200, prompts=2, n=2, stops=2))
    assert call("POST", "/v1/completions", json=PROMPT).status_code == 200
    error = error_of(call("POST", "/v1/completions", content=b" " * 201), 413)
    assert "200 bytes" in error["message"]
    for name, value in (("prompt", ["a"] * 3), ("n", 3), ("stop", ["a"] * 3)):
        error = error_of(call("POST", "/v1/completions", json={**PROMPT, name: value}), 400)
        assert error["param"] == name


def test_a_body_that_comes_too_slowly_is_dropped(served, monkeypatch):
    monkeypatch.setattr(served.service, "settings", slow_settings(served.service.settings))
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
        connection.sendall(head)
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def slow_settings(settings):
    limits = dataclasses.replace(settings.limits, body_seconds=0.1)
    return dataclasses.replace(settings, limits=limits)


@pytest.mark.parametrize("head", [b"", b"GET /health HTTP/1.1\r\nhost: x\r\nslow"])
def test_a_head_that_comes_too_slowly_is_dropped(served, monkeypatch, head):
    monkeypatch.setattr(run, "HEAD_SECONDS", 0.1)
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head)
        assert connection.recv(1000) == b""


def test_a_second_head_on_a_connection_has_the_same_limit(served, monkeypatch):
    monkeypatch.setattr(run, "HEAD_SECONDS", 0.1)
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /health HTTP/1.1\r\nslow")
        rest = b"".join(iter(lambda: connection.recv(1000), b""))
    assert b"HTTP/1.1" not in rest


def test_a_request_that_takes_longer_than_a_head_may_is_answered(client, monkeypatch):
    monkeypatch.setattr(run, "HEAD_SECONDS", 0.01)
    body = {"prompt": "x", "max_tokens": 500, "ignore_eos": True, "temperature": 0}
    answer = client.post("/v1/completions", json=body).json()
    assert answer["usage"]["completion_tokens"] == 500


def families(client):
    return {
        family.name: family
        for family in text_string_to_metric_families(client.get("/metrics").text)
    }


@pytest.fixture
def value(client):
    def call(name, **labels):
        [found] = [
            sample.value
            for family in families(client).values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return found

    return call


def test_metrics(client, engine, value):
    client.post("/v1/completions", json=PROMPT)
    names = (
        "vllm:generation_tokens_total", "vllm:prompt_tokens_total",
        "vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_draft_tokens_total",
        "vllm:spec_decode_num_accepted_tokens_total", "vllm:e2e_request_latency_seconds_count",
        "vllm:time_to_first_token_seconds_count", "vllm:request_queue_time_seconds_count",
        "vllm:request_time_per_output_token_seconds_count",
    )  # fmt: skip
    before = {name: value(name) for name in names}
    per_position = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    body = client.post("/v1/completions", json={**PROMPT, "max_tokens": 40}).json()
    spec, used = body["metrics"]["speculative_decoding"], body["usage"]
    grown = [value(name) - before[name] for name in names]
    assert grown == [
        used["completion_tokens"], used["prompt_tokens"], spec["num_spec_steps"],
        spec["num_draft_tokens"], spec["num_accepted_draft_tokens"], 1, 1, 1, 1,
    ]  # fmt: skip
    positions = [value(per_position, position=str(i)) for i in range(4)]
    assert positions == sorted(positions, reverse=True)
    assert sum(positions) == value("vllm:spec_decode_num_accepted_tokens_total")
    assert value("vllm:request_success_total", finished_reason="length") > 0
    assert value("vllm:num_requests_running", model_name="demo", engine="0") == 0
    assert value("vllm:num_requests_waiting") == 0
    assert value("vllm:kv_cache_usage_perc") == 0
    assert value("sbrt:seats") == engine.config.max_num_seqs
    assert "vllm:inter_token_latency_seconds" in families(client)


def test_tokens_whose_kv_is_reused_are_counted(client, value):
    """All requests have the same prompt. The prompt's last token is never fed, so its KV is not
    reused."""
    names = ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total")
    text = "def once(upon, a, time):\n    return sorted(upon, key=a, reverse=time)\n"
    cached = []
    for stream in (False, True, False):
        before = [value(name) for name in names]
        asked = {"model": "demo", "prompt": text, "max_tokens": 2, "stream": stream}
        if stream:
            asked["stream_options"] = {"include_usage": True}
        answer = client.post("/v1/completions", json=asked)
        body = json.loads(answer.text.split("data: ")[-2]) if stream else answer.json()
        used = body["usage"]
        cached.append(used["prompt_tokens_details"]["cached_tokens"])
        grown = [value(name) - was for name, was in zip(names, before, strict=True)]
        assert grown == [used["prompt_tokens"], cached[-1]]
    assert cached == [0, used["prompt_tokens"] - 1, used["prompt_tokens"] - 1]


def test_a_profile(client, engine, tmp_path, monkeypatch):
    assert "start_profile" in error_of(client.post("/stop_profile"), 400)["message"]
    assert "profile_dir" in error_of(client.post("/start_profile"), 400)["message"]
    config = dataclasses.replace(engine.config, profile_dir=tmp_path)
    monkeypatch.setattr(engine, "config", config)
    assert client.post("/start_profile").status_code == 200
    assert "in progress" in error_of(client.post("/start_profile"), 400)["message"]
    client.post("/v1/completions", json=PROMPT)
    path = client.post("/stop_profile").json()["path"]
    assert json.loads(Path(path).read_text())["traceEvents"]


def test_a_defect_is_a_sentence_and_a_log(local, monkeypatch, caplog):
    call = local()

    def broken(*_):
        raise ZeroDivisionError("secret details")

    monkeypatch.setattr(call.service, "check_model", broken)
    error = error_of(call("POST", "/v1/completions", json=PROMPT), 500)
    assert "secret" not in error["message"]
    assert error["type"] == "server_error"
    assert "secret details" in caplog.text
