"""Contract under test: a stream has its chunks in the order that clients rely on, and always ends
in [DONE]. A client that leaves or reads slowly does not disturb other clients."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sbrt.errors import EngineError
from sbrt.server.protocol import Limits
from sbrt.server.service import Service, Settings

PROMPT = "def area("
SAY = [{"role": "user", "content": "def f(x):"}]
GREEDY = {"temperature": 0, "max_tokens": 12}
USAGE = {"stream": True, "stream_options": {"include_usage": True, "unknown": 1}}
ENDLESS = {"temperature": 0, "max_tokens": 900, "ignore_eos": True, "speculative": False}


def chat(client, **fields):
    body = {"messages": SAY, **GREEDY, "stream": True, **fields}
    return client.post("/v1/chat/completions", json=body)


def complete(client, **fields):
    body = {"prompt": PROMPT, **GREEDY, "stream": True, **fields}
    return client.post("/v1/completions", json=body)


def test_the_order_of_a_chat_s_chunks(client, tools, plain):
    first, *parts, end, last = tools.events_of(chat(client, **USAGE))
    opening = {"role": "assistant", "content": ""}
    assert first["choices"][0]["delta"] == opening
    assert first["choices"][0]["finish_reason"] is None
    for part in parts:
        [choice] = part["choices"]
        assert set(choice["delta"]) == {"content"}
        assert choice["delta"]["content"]
        assert choice["finish_reason"] is None
        assert part["usage"] is None
    want = plain(tools.render(SAY), **GREEDY)
    assert "".join(part["choices"][0]["delta"]["content"] for part in parts) == want.text
    assert end["choices"][0]["delta"] == {}
    assert end["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 12
    assert {chunk["id"] for chunk in (first, *parts, end, last)} == {first["id"]}
    assert {chunk["object"] for chunk in (first, *parts, last)} == {"chat.completion.chunk"}


def test_the_order_of_a_completion_s_chunks(client, tools, plain):
    *parts, end, last = tools.events_of(complete(client, **USAGE))
    text = "".join(part["choices"][0]["text"] for part in parts)
    assert text == plain(PROMPT, **GREEDY).text
    assert end["choices"][0]["text"] == ""
    assert end["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == []
    first, *_ = tools.events_of(complete(client, echo=True))
    assert first["choices"][0]["text"] == PROMPT


def test_a_stream_without_usage_has_none_and_timings_at_the_end(client, tools):
    *chunks, end = tools.events_of(complete(client))
    assert not any("usage" in chunk or "timings" in chunk for chunk in chunks)
    assert end["timings"]["predicted_n"] == 12
    assert end["choices"][0]["finish_reason"] == "length"


def test_continuous_usage_grows_to_the_last(client, tools):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = tools.events_of(complete(client, stream_options=options))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 12


def test_the_last_chunk_tells_of_speculation(client, tools):
    last = tools.events_of(complete(client, **USAGE))[-1]
    spec, used = last["metrics"]["speculative_decoding"], last["usage"]
    assert len(spec["acceptance_histogram"]) == spec["num_spec_tokens"] + 1
    assert sum(spec["acceptance_histogram"]) == spec["num_spec_steps"]
    details = used["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] == spec["num_accepted_draft_tokens"]
    both = details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"]
    assert both == spec["num_draft_tokens"]
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
    assert last["timings"]["draft_n"] == spec["num_draft_tokens"]
    assert last["metrics"]["time_to_first_token_ms"] > 0


def test_a_stream_of_several_answers_ends_each_once(client, tools):
    body = {"temperature": 1.0, "seed": 3, "n": 3}
    chunks = tools.events_of(chat(client, **body))
    texts, roles, ends = {}, [], []
    for chunk in chunks:
        [choice] = chunk["choices"]
        i, delta = choice["index"], choice["delta"]
        texts[i] = texts.get(i, "") + delta.get("content", "")
        roles += [i] * ("role" in delta)
        ends += [i] * (choice["finish_reason"] is not None)
    assert sorted(roles) == sorted(ends) == [0, 1, 2]
    whole = client.post("/v1/chat/completions", json={"messages": SAY, **GREEDY, **body}).json()
    assert texts == {c["index"]: c["message"]["content"] for c in whole["choices"]}


def test_token_ids_come_with_their_chunks(client, tools, plain, engine):
    chunks = tools.events_of(chat(client, return_token_ids=True))
    assert chunks[0]["prompt_token_ids"] == engine.encode(tools.render(SAY))
    ids = [i for chunk in chunks for i in chunk["choices"][0].get("token_ids", ())]
    assert ids == plain(tools.render(SAY), **GREEDY).token_ids


def test_characters_of_many_bytes_come_whole(client, tools, plain):
    prompt = "s = 'ä日本語🙂"
    text = "".join(
        chunk["choices"][0]["text"]
        for chunk in tools.events_of(complete(client, prompt=prompt, max_tokens=24, echo=True))
    )
    assert text == prompt + plain(prompt, temperature=0, max_tokens=24).text


def test_a_bad_request_is_refused_before_the_stream_begins(client):
    for fields in ({"temperature": -1}, {"speculative": "specbranch"}, {"prompt": [99999]}):
        response = complete(client, **fields)
        assert response.status_code == 400
        assert response.json()["error"]["message"]


def test_a_bad_prompt_takes_the_good_ones_with_it(client, engine, served, tools):
    body = {"prompt": [[1], [2], [99999]], **ENDLESS}
    response = client.post("/v1/completions", json=body)
    assert response.json()["error"]["param"] == "prompt"
    assert not served.service._live
    tools.until(lambda: not engine.has_unfinished_requests())


def test_an_error_after_the_start_is_an_event(local, served, monkeypatch):
    stream = served.service.engine._pump

    async def failing(*given, **more):
        made = await real(*given, **more)
        made.close()
        made.fail(EngineError("the device broke"))
        return made

    real = served.service.engine.add_request
    monkeypatch.setattr(served.service.engine, "add_request", failing)
    response = local()("POST", "/v1/completions", json={"prompt": PROMPT, "stream": True})
    error, end = response.text.removesuffix("\n\n").split("\n\n")
    assert json.loads(error.removeprefix("data: ")) == {
        "error": {
            "message": "the device broke",
            "type": "service_unavailable_error",
            "param": None,
            "code": None,
        }
    }
    assert end == "data: [DONE]"
    assert stream.is_running


def ended(service, reason):
    """Return the number of answers whose finish reason is `reason`."""
    families = text_string_to_metric_families(service.metrics.text().decode())
    [family] = [f for f in families if f.name == "vllm:request_success"]
    samples = [s for s in family.samples if s.name.endswith("_total")]
    return sum(s.value for s in samples if s.labels["finished_reason"] == reason)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_goes_away_aborts_its_request(
    client, engine, served, plain, tools, is_stream
):
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": PROMPT, **ENDLESS, "n": 64, "stream": is_stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    before = [ended(served.service, reason) for reason in ("length", "abort")]
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        if is_stream:
            assert connection.recv(1000)
        else:
            tools.until(lambda: served.service._live)
    tools.until(lambda: not (served.service._live or engine.has_unfinished_requests()))
    length, abort = (ended(served.service, reason) for reason in ("length", "abort"))
    assert abort > before[1]
    assert length + abort == sum(before) + 64
    response = client.post("/v1/completions", json={"prompt": PROMPT, **GREEDY})
    assert response.json()["choices"][0]["text"] == plain(PROMPT, **GREEDY).text


def test_a_client_that_reads_nothing_holds_up_nobody(client, engine, served, plain, tools):
    """The send buffer of the client's connection fills up. The request still runs to its end, and
    other clients are answered."""
    host, port = served.url.removeprefix("http://").split(":")
    fields = {"n": 8, "stream": True, "return_token_ids": True, "seed": 1, "temperature": 1}
    body = json.dumps({"prompt": PROMPT, **ENDLESS, "max_tokens": 300, **fields}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with connection:
        connection.connect((host, int(port)))
        connection.sendall(head.encode() + body)
        tools.until(lambda: served.service._live)
        response = client.post("/v1/completions", json={"prompt": PROMPT, **GREEDY})
        assert response.json()["choices"][0]["text"] == plain(PROMPT, **GREEDY).text
        tools.until(lambda: not engine.has_unfinished_requests())
    tools.until(lambda: not served.service._live)


def test_a_client_that_reads_nothing_for_too_long_is_dropped(engine, tools):
    """The request of a client that reads nothing is aborted. A client that reads a little from time
    to time stays connected."""
    service = Service(Settings(names=("demo",), limits=Limits(n=64, send_seconds=0.5)))
    fields = {"n": 64, "stream": True, "return_token_ids": True}
    body = json.dumps({"prompt": PROMPT * 200, **ENDLESS, "max_tokens": 80, **fields}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    with tools.listening(service, tools.demo_engine(), sent=4096) as found:
        host, port = found.url.removeprefix("http://").split(":")

        def connect():
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            connection.sendall(head.encode() + body)
            return connection

        with connect() as slow:
            begin = time.monotonic()
            while time.monotonic() < begin + 2:
                assert slow.recv(4096)
                time.sleep(0.1)
            assert service._live
        tools.until(lambda: not service._live)
        with connect():
            tools.until(lambda: service._live)
            tools.until(lambda: not service._live)
        assert ended(service, "abort") > 0
        tools.until(lambda: not service.engine.engine.has_unfinished_requests())


def test_many_streams_at_once_are_each_as_alone(served, plain):
    prompts = [f"def f{i}(" for i in range(8)]

    async def one(client, prompt):
        text = ""
        body = {"prompt": prompt, **GREEDY, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
        return text

    async def run():
        async with httpx2.AsyncClient(base_url=served.url, timeout=120) as client:
            return await asyncio.gather(*(one(client, prompt) for prompt in prompts))

    assert asyncio.run(run()) == [plain(prompt, **GREEDY).text for prompt in prompts]
