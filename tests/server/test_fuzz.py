"""Contract under test: for any request the client gets an answer or an error of one sentence. The
engine's later answers are right."""

from __future__ import annotations

import asyncio
import json
import random

import httpx2
import pytest

from sbrt.server.application import build

PROMPT = "def area("
GREEDY = {"prompt": PROMPT, "temperature": 0, "max_tokens": 4}
VALUES = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e308, 2**31, 2**63, 2**64, 10**30, "", "x", "\n",
    "none", "auto", "lookup", "pearl:gamma=2", "hedge", "\ud800", "é" * 50, [], [1], ["x"], [[1]],
    [[]], [None], {}, {"1": 1}, {"type": "text"}, [{"role": "user", "content": "x"}],
    [{"role": "user", "content": [{"type": "text", "text": "x"}]}], [0] * 500, {"a": {"b": [1]}},
]  # fmt: skip
NAMES = (
    "prompt messages model temperature top_p top_k min_p seed stop stop_token_ids ignore_eos "
    "max_tokens max_completion_tokens min_tokens presence_penalty frequency_penalty n echo suffix "
    "repetition_penalty logit_bias allowed_token_ids bad_words skip_special_tokens stream logprobs "
    "include_stop_str_in_output stream_options speculative request_id return_token_ids tokens "
    "add_special_tokens add_generation_prompt continue_final_message chat_template_kwargs best_of "
    "chat_template tools response_format priority return_token_strs unknown top_logprobs "
    "prompt_logprobs return_tokens_as_token_ids"
).split()
PATHS = ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"]
STATUSES = {200, 400, 404}


def mutated(draw):
    """Return (path, body): a valid request with some fields replaced, and sometimes also some
    bytes."""
    body = {"max_tokens": draw.choice([1, 2, 4]), "seed": draw.randrange(9)}
    path = draw.choice(PATHS)
    if path == "/v1/chat/completions":
        body["messages"] = [{"role": "user", "content": "x"}]
    elif path == "/detokenize":
        body = {"tokens": [1, 2]}
    else:
        body["prompt"] = PROMPT
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        body[draw.choice(NAMES)] = draw.choice(VALUES)
    if draw.random() < 0.3:
        body["stream"] = True
    body.setdefault("max_tokens", 4)
    raw = bytearray(json.dumps(body).encode())
    for _ in range(draw.choice([0] * 6 + [1, 2])):
        raw[draw.randrange(len(raw))] = draw.randrange(256)
    return path, bytes(raw)


def check(path, raw, response):
    """Check that a client can parse the answer."""
    asked = f"{path} {raw!r} {response.status_code} {response.text[:400]}"
    assert response.status_code in STATUSES, asked
    assert "Traceback" not in response.text, asked
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, asked
        assert "\n" not in error["message"], asked
    elif response.headers["content-type"].startswith("text/event-stream"):
        assert response.text.endswith("data: [DONE]\n\n"), asked
        assert '"error"' not in response.text or '"stop_reason"' in response.text, asked


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.exact)])
def test_nothing_that_is_sent_breaks_the_server(served, template, plain, count):
    draw = random.Random(count)

    async def run():
        app = build(served.service)
        transport = httpx2.ASGITransport(app, raise_app_exceptions=True)
        async with httpx2.AsyncClient(transport=transport, base_url="http://local") as client:
            for _ in range(count):
                path, raw = mutated(draw)
                check(path, raw, await client.post(path, content=raw))
            return await client.post("/v1/completions", json=GREEDY)

    response = asyncio.run(run())
    want = plain(PROMPT, temperature=0, max_tokens=4)
    assert response.json()["choices"][0]["text"] == want.text
    assert not served.service._live
