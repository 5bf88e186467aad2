"""Contract under test: the Ray application takes its options as strings or as values, and refuses a
bad option in one sentence. tests/clients/test_ray.py runs the application on a cluster."""

from __future__ import annotations

import asyncio
import sys

import pytest

from sbrt import EngineError, InvalidInputError
from sbrt.server import ray


def test_texts_of_a_command_line_and_values_are_the_same():
    texts = {"target": "org/model", "min_replicas": "2", "max_model_len": "64", "api_key": "k"}
    values = texts | {"min_replicas": 2, "max_model_len": 64}
    assert ray.Options.read(texts) == ray.Options.read(values) == ray.Options(**values)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"replicas": "2"}, "unknown field 'replicas'"),
        ({"min_replicas": "two"}, "min_replicas: expected an integer, got 'two'"),
        ({"min_replicas": "5"}, "max_replicas: expected an integer at least 5, got 4"),
        ({"num_threads": 0}, "num_threads: expected an integer at least 1, got 0"),
        ({"max_ongoing_requests": "3"}, "max_ongoing_requests: expected an integer at least 4"),
        ({"target_ongoing_requests": 0}, "target_ongoing_requests"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_what_cannot_be_is_one_sentence(given, message):
    with pytest.raises(InvalidInputError, match=message):
        ray.Options.read(given)


def test_without_ray_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidInputError, match="expected Ray Serve"):
        ray.app({})


def test_a_replica_serves_its_options_and_is_ill_when_its_engine_is_gone(tools, plain):
    options = ray.Options.read({"served_model_name": "m", "api_key": "k", "method": "lookup"})
    replica = ray.Replica(options)
    call = tools.Local(replica.__serve_build_asgi_app__())
    headers = {"authorization": "Bearer k"}
    body = {"model": "m", "prompt": "def area(", "temperature": 0, "max_tokens": 8}
    answer = call("POST", "/v1/completions", json=body, headers=headers).json()
    assert answer["choices"][0]["text"] == plain("def area(", temperature=0, max_tokens=8).text
    assert call("POST", "/v1/completions", json=body).status_code == 401
    asyncio.run(replica.check_health())
    replica._engine.close()
    with pytest.raises(EngineError, match="closed"):
        asyncio.run(replica.check_health())
