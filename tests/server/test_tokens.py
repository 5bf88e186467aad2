"""Contract under test: a router that tokenises prompts itself gets the engine's token ids. Requests
for features that do not exist here are refused. tests/clients/test_dynamo.py runs Dynamo itself."""

from __future__ import annotations

import asyncio

import pytest

from sbrt import SamplingParams
from sbrt.model.generation_config import Defaults
from sbrt.server.errors import ApiError
from sbrt.server.options import EngineOptions
from sbrt.server.tokens import ask_of, chunks

# Fields that a request leaves out. Dynamo's frontend sends null for them.
NULLS = {
    "sampling_options": dict.fromkeys(
        ("n", "best_of", "temperature", "top_p", "top_k", "seed", "guided_decoding", "min_p")
    ),
    "stop_conditions": dict.fromkeys(
        ("stop", "stop_token_ids", "stop_token_ids_visible", "min_tokens", "ignore_eos")
    ),
    "output_options": dict.fromkeys(("logprobs", "prompt_logprobs", "skip_special_tokens")),
}


def request_of(sampling=None, stops=None, output=None, **more):
    return {
        "sampling_options": NULLS["sampling_options"] | (sampling or {}),
        "stop_conditions": NULLS["stop_conditions"] | (stops or {}),
        "output_options": NULLS["output_options"] | (output or {}),
        **more,
    }


def test_parameters_are_read():
    asked = ask_of(
        request_of(
            {"temperature": 0.0, "top_k": -1, "seed": 0, "n": 1},
            {"max_tokens": 0, "stop": ["x"], "stop_token_ids_hidden": [9, 3]},
            {"skip_special_tokens": False},
        ),
        Defaults(given={"temperature": 0.5, "top_p": 0.9}),
    )
    want = SamplingParams(
        temperature=0.0, top_k=0, top_p=0.9, seed=0, max_tokens=0, stop_token_ids=[3, 9]
    )
    assert asked.params == want


def test_hidden_stop_ids_are_ends_of_sequence():
    stops = {
        "stop_token_ids_hidden": [9],
        "stop_token_ids_visible": [4],
        "stop_token_ids": [5],
        "ignore_eos": True,
    }
    asked = ask_of(request_of(stops=stops), Defaults())
    assert asked.params.stop_token_ids == (4, 5)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"sampling": {"guided_decoding": {"json": {}}}}, "guided_decoding"),
        ({"output": {"logprobs": 2}}, "logprobs"),
        ({"output": {"prompt_logprobs": 0}}, "prompt_logprobs"),
        ({"stops": {"max_thinking_tokens": 8}}, "max_thinking_tokens"),
        ({"sampling": {"n": 2}}, "n"),
        ({"sampling": {"temperature": -1}}, "temperature"),
        ({"stops": {"max_tokens": "many"}}, "max_tokens"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_is_not_built_or_wrong_is_refused(given, param):
    with pytest.raises(ApiError) as caught:
        ask_of(request_of(**given), Defaults())
    assert (caught.value.status, caught.value.param) == (400, param)


def collect(service, request, abort_after=None):
    async def run():
        found = []
        async for chunk in chunks(service, request, "r"):
            found.append(chunk)
            if len(found) == abort_after:
                await service.abort("r")
        return found

    return asyncio.run(run())


def test_chunks_are_the_engine_s_tokens_and_the_last_says_why(served, engine, plain):
    ids = engine.encode("def area(")
    request = request_of({"temperature": 0.0}, {"max_tokens": 24}, token_ids=ids)
    *parts, last = collect(served.service, request)
    tokens = [token for chunk in [*parts, last] for token in chunk["token_ids"]]
    assert tokens == plain("def area(", temperature=0, max_tokens=24).token_ids
    assert all(set(part) == {"token_ids", "index"} for part in parts)
    assert last["finish_reason"] == "length"
    assert last["completion_usage"]["completion_tokens"] == 24
    assert last["completion_usage"]["prompt_tokens"] == len(ids)


def test_an_aborted_request_ends_cancelled_and_alone(served, engine, tools):
    request = request_of(
        {"temperature": 0.0}, {"max_tokens": 900, "ignore_eos": True}, token_ids=[5, 6]
    )
    *parts, last = collect(served.service, request, abort_after=2)
    assert len(parts) >= 2
    assert last["finish_reason"] == "cancelled"
    tools.until(lambda: not (served.service._live or engine.has_unfinished_requests()))


def test_options_are_the_engine_s():
    options = EngineOptions.read({"num_threads": "1", "method": "lookup", "max_model_len": "96"})
    assert options.name == "demo"
    with options.open() as opened:
        assert opened.engine.method.name == "lookup"
        assert (opened.engine.num_threads, opened.engine.max_model_len) == (1, 96)
        assert opened.engine.pair.draft is not None
    assert EngineOptions(served_model_name="m", target="org/model").name == "m"
