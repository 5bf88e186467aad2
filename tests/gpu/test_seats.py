"""Contract under test: recorded lanes run many sequences at once. A request has the tokens that it
has alone: on the stand-in for a device, on the CPU over the same recordings, and in the CPU's own
engine. Neither methods, nor kinds of requests, nor the order of arrival change them. A launch takes
the smallest graph that holds the rows of all seats."""

from contextlib import contextmanager
from dataclasses import replace

import pytest

from sbrt import Engine
from sbrt.serve.pair import load_pair
from tests.gpu.test_on_device import METHODS, PARAMS, folders

HEDGE = METHODS[-1]
FAMILY = "Qwen3"
LENGTHS = (9, 33, 5, 70, 18, 40, 12, 26)  # of prompts: of one piece, of two, and pieces shared


def crowd(tools, methods, count=8):
    """{name: (prompt, params, method)}: every kind of request, the methods in turn."""
    kinds = list(PARAMS.items())
    return {
        f"{i}": (
            tools.prompt(LENGTHS[i % len(LENGTHS)], seed=i),
            replace(kinds[i % len(kinds)][1], max_tokens=6 + 3 * (i % 3)),
            methods[i % len(methods)],
        )
        for i in range(count)
    }


def take(engine, found):
    """One step of an engine; answers that are complete go to `found`."""
    for out in engine.step():
        if out.finished:
            [answer] = out.outputs
            found[out.request_id] = (answer.token_ids, answer.finish_reason)


def together(engine, requests):
    """{name: (tokens, reason)} of requests that are added at once."""
    found = {}
    for name, (prompt, params, method) in requests.items():
        engine.add_request(name, prompt, params, method=method)
    while len(found) < len(requests):
        take(engine, found)
    return found


def alone(engine, requests):
    """The same, by plain decoding, one after the other."""
    found = {}
    for name, (prompt, params, _) in requests.items():
        [out] = engine.generate(prompt, params, method="none")
        found[name] = (out.outputs[0].token_ids, out.outputs[0].finish_reason)
    return found


@pytest.fixture
def engines(tools, tool, checkpoints):
    """Engines with N seats: on the stand-in, on the CPU over recordings, and the CPU's own."""
    pair = folders(checkpoints, FAMILY)

    @contextmanager
    def made(where, seats, **more):
        device = "cuda" if where == "stand-in" else "cpu"
        config = tool.config_of(
            pair, device, max_model_len=tools.max_len, max_num_seqs=seats, **more
        )
        loaded = None
        if where == "recorded":
            models = [tools.recorded(checkpoint) for checkpoint in checkpoints[FAMILY]]
            loaded = replace(load_pair(config), target=models[0], draft=models[1])
        with Engine(config, pair=loaded, methods=METHODS) as engine:
            yield engine

    return made


def answers_alone(engines, requests):
    with engines("recorded", 1) as engine:
        return alone(engine, requests)


@pytest.mark.parametrize("where", ["stand-in", "recorded", "cpu"])
@pytest.mark.parametrize("seats", [3, 8])
def test_every_method_answers_in_company_as_it_does_alone(tools, stand_in, engines, where, seats):
    """Requests of all methods share rounds, eleven of them on three seats and on eight."""
    requests = crowd(tools, METHODS, len(METHODS))
    with engines(where, seats) as engine:
        given = together(engine, requests)
    assert given == answers_alone(engines, requests)


@pytest.mark.exact
@pytest.mark.parametrize("seats", [1, 2, 3, 8])
@pytest.mark.parametrize("method", METHODS)
def test_one_method_in_every_seat(tools, stand_in, engines, method, seats):
    requests = crowd(tools, [method])
    with engines("stand-in", seats) as engine:
        given = together(engine, requests)
    assert given == answers_alone(engines, requests)
