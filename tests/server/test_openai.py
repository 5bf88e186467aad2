"""Contract under test: unpatched openai-python reads the answers, sync and async, whole and
streamed. It raises its own types of errors."""

from __future__ import annotations

import asyncio

import openai
import pytest

PROMPT = "def area("
SAY = [{"role": "user", "content": "def f(x):"}]
GREEDY = {"model": "demo", "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def sync(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as found:
        yield found


def run(served, work):
    async def call():
        url = f"{served.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
            return await work(client)

    return asyncio.run(call())


def test_chat(sync, plain, tools):
    want = plain(tools.render(SAY), temperature=0, max_tokens=12)
    answer = sync.chat.completions.create(messages=SAY, **GREEDY)
    assert answer.choices[0].message.content == want.text
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == len(want.token_ids)
    assert answer.usage.completion_tokens_details.accepted_prediction_tokens is not None
    stream = sync.chat.completions.create(
        messages=SAY, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == want.text
    assert [delta.role for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert chunks[-1].usage.completion_tokens == 12


def test_completions(sync, plain):
    want = plain(PROMPT, temperature=0, max_tokens=12)
    answer = sync.completions.create(prompt=PROMPT, **GREEDY)
    assert answer.choices[0].text == want.text
    stream = sync.completions.create(prompt=PROMPT, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in stream) == want.text
    answer = sync.completions.create(
        prompt=PROMPT, extra_body={"speculative": False, "top_k": 1}, **{**GREEDY, "temperature": 1}
    )
    assert answer.choices[0].text == want.text


def test_the_helper_that_collects_a_stream(sync, plain, tools):
    want = plain(tools.render(SAY), temperature=0, max_tokens=12, stop="\n")
    with sync.chat.completions.stream(messages=SAY, stop="\n", **GREEDY) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == want.text
    assert final.choices[0].finish_reason == want.finish_reason == "stop"


def test_the_async_client(served, plain, tools):
    async def work(client):
        chat = client.chat.completions.create(messages=SAY, **GREEDY)
        text = client.completions.create(prompt=PROMPT, **GREEDY)
        whole, plain_text = await asyncio.gather(chat, text)
        stream = await client.chat.completions.create(messages=SAY, stream=True, **GREEDY)
        parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        stream = await client.completions.create(prompt=PROMPT, stream=True, **GREEDY)
        texts = [chunk.choices[0].text async for chunk in stream]
        return whole.choices[0].message.content, plain_text.choices[0].text, parts, texts

    chat, text, parts, texts = run(served, work)
    wanted_chat = plain(tools.render(SAY), temperature=0, max_tokens=12).text
    wanted_text = plain(PROMPT, temperature=0, max_tokens=12).text
    assert chat == "".join(parts) == wanted_chat
    assert text == "".join(texts) == wanted_text


def test_models(sync):
    assert [card.id for card in sync.models.list()] == ["demo", "alias"]
    assert sync.models.retrieve("demo").owned_by == "sbrt"


def test_errors_are_its_own_types(sync):
    with pytest.raises(openai.BadRequestError) as caught:
        sync.completions.create(prompt=PROMPT, **{**GREEDY, "temperature": -1})
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as caught:
        sync.completions.create(prompt=PROMPT, **{**GREEDY, "model": "gpt"})
    assert caught.value.code == "model_not_found"


def test_errors_of_a_server_that_is_not_ready(tools, local):
    call = local(loaded=False, api_key="right")
    with tools.listening(call.service) as found:
        url = f"{found.url}/v1"
        client = openai.OpenAI(base_url=url, api_key="wrong", max_retries=0)
        with client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        client = openai.OpenAI(base_url=url, api_key="right", max_retries=0)
        with client, pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(prompt=PROMPT, **GREEDY)
    assert caught.value.status_code == 503


def test_leaving_a_stream_aborts_it(sync, served, engine, tools):
    stream = sync.completions.create(
        prompt=PROMPT, stream=True, model="demo", max_tokens=900, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    tools.until(lambda: not (served.service._live or engine.has_unfinished_requests()))
