"""Contract under test: many clients send requests together. Some of them disconnect, read slowly or
send garbage. Every finished answer is the answer that the client would get alone, and no request
remains."""

from __future__ import annotations

import asyncio
import json
import random

import httpx2
import pytest

TOKENS = 24


def body_of(draw):
    """Return the body of a streamed completion, greedy or with a seed, with one of the methods."""
    sampled = {"temperature": 1.0, "seed": draw.randrange(99), "top_p": 0.9}
    return {
        "prompt": f"def f{draw.randrange(20)}(",
        "max_tokens": TOKENS,
        "stream": True,
        "speculative": draw.choice([False, "lookup", "draft_model", "pearl"]),
        **draw.choice([{"temperature": 0}, sampled]),
    }


async def converse(client, draw, done):
    """Send one request as a client of a random kind. Append a finished answer to `done`."""
    kind = draw.random()
    if kind < 0.03:
        garbage = await client.post("/v1/completions", content=draw.randbytes(60))
        assert garbage.status_code == 400
        return
    body, text = body_of(draw), ""
    async with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        last = ""
        async for line in response.aiter_lines():
            if kind > 0.8:
                return  # disconnects
            if kind > 0.75:
                await asyncio.sleep(0.01)  # reads slowly
            if line.startswith("data: {"):
                text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
            last = line or last
        assert last == "data: [DONE]"
    done.append((body, text))


@pytest.mark.parametrize(
    ("clients", "each"), [(24, 4), pytest.param(64, 30, marks=pytest.mark.exact)]
)
def test_every_finished_answer_is_the_one_given_alone(served, engine, plain, tools, clients, each):
    done = []

    async def work(number):
        draw = random.Random(number)
        async with httpx2.AsyncClient(base_url=served.url, timeout=600) as client:
            for _ in range(each):
                await converse(client, draw, done)

    async def run():
        await asyncio.gather(*(work(number) for number in range(clients)))

    asyncio.run(run())
    assert len(done) > clients * each // 2
    for body, text in done:
        names = ("temperature", "seed", "top_p", "max_tokens")
        params = {name: body[name] for name in names if name in body}
        assert text == plain(body["prompt"], **params).text
    tools.until(lambda: not (served.service._live or engine.has_unfinished_requests()))
