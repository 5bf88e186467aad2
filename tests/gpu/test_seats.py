"""Contract under test: a round of recorded lanes may have many sequences. A request must have the
tokens that it has alone: on the stand-in for a device, on the CPU over the same recordings, and in
the CPU's own engine. Other methods, other kinds of requests and the order of arrival must not
change these tokens. A launch takes the smallest graph that holds the rows of all seats."""

import random
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby, pairwise

import pytest

from sbrt import Engine
from sbrt.serve.pair import load_pair
from tests.gpu.test_on_device import METHODS, PARAMS, folders, sizes_taken

HEDGE = METHODS[-1]
FAMILY = "Qwen3"
# lengths of prompts: some take one piece, some take two, and some prompts share a piece
LENGTHS = (9, 33, 5, 70, 18, 40, 12, 26)


def crowd(tools, methods, count=8):
    """Return {name: (prompt, params, method)} with every kind of request. The methods take
    turns."""
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
    """Run one step of an engine. Put finished answers into `found`."""
    for out in engine.step():
        if out.finished:
            [answer] = out.outputs
            found[out.request_id] = (answer.token_ids, answer.finish_reason)


def together(engine, requests):
    """Add all requests, then run them. Return {name: (tokens, finish reason)}."""
    found = {}
    for name, (prompt, params, method) in requests.items():
        engine.add_request(name, prompt, params, method=method)
    while len(found) < len(requests):
        take(engine, found)
    return found


def alone(engine, requests):
    """Run requests one by one with plain decoding. Return {name: (tokens, finish reason)}."""
    found = {}
    for name, (prompt, params, _) in requests.items():
        [out] = engine.generate(prompt, params, method="none")
        found[name] = (out.outputs[0].token_ids, out.outputs[0].finish_reason)
    return found


@pytest.fixture
def engines(tools, tool, checkpoints):
    """Return a function that opens an engine (where, seats): on the stand-in ("stand-in"), on the
    CPU over recordings ("recorded"), or with the CPU's own lanes ("cpu")."""
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


@pytest.fixture(scope="module")
def known():
    """Return the dict of answers of requests that ran alone, by prompt and params. Several tests
    share it."""
    return {}


@pytest.fixture
def answers_alone(engines, known):
    def call(requests):
        asked = {name: repr(request[:2]) for name, request in requests.items()}
        missing = {name: requests[name] for name in requests if asked[name] not in known}
        if missing:
            with engines("recorded", 1) as engine:
                found = alone(engine, missing)
            known.update((asked[name], answer) for name, answer in found.items())
        return {name: known[asked[name]] for name in requests}

    return call


SEATS = [("stand-in", 3), ("stand-in", 8), ("recorded", 3), ("cpu", 8)]
MORE_SEATS = [("recorded", 8), ("cpu", 3)]


@pytest.mark.parametrize(
    ("where", "seats"),
    [*SEATS, *(pytest.param(*case, marks=pytest.mark.exact) for case in MORE_SEATS)],
)
def test_every_method_answers_in_company_as_it_does_alone(
    tools, stand_in, engines, answers_alone, where, seats
):
    """Requests of all methods share rounds, on three seats and on eight. Each must have the answer
    of the request that runs alone."""
    requests = crowd(tools, METHODS, len(METHODS))
    with engines(where, seats) as engine:
        given = together(engine, requests)
    assert given == answers_alone(requests)


@pytest.mark.exact
@pytest.mark.parametrize("seats", [1, 2, 3, 8])
@pytest.mark.parametrize("method", METHODS)
def test_one_method_in_every_seat(tools, stand_in, engines, answers_alone, method, seats):
    requests = crowd(tools, [method])
    with engines("stand-in", seats) as engine:
        given = together(engine, requests)
    assert given == answers_alone(requests)


def test_without_graphs_it_answers_alike(tools, stand_in, engines, answers_alone):
    requests = crowd(tools, METHODS[::2])
    with engines("stand-in", 3, enforce_eager=True) as engine:
        given = together(engine, requests)
    assert given == answers_alone(requests)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(i, marks=pytest.mark.exact) for i in range(1, 9))]
)
def test_requests_come_and_go_at_random(tools, stand_in, engines, answers_alone, seed):
    """Three seats serve requests that arrive at random. Some requests are aborted, which must
    change no other answer."""
    rng = random.Random(seed)
    requests = crowd(tools, rng.sample(METHODS, 5), 14)
    waiting, found, dropped = list(requests.items()), {}, set()
    with engines("stand-in", 3) as engine:
        while len(found) + len(dropped) < len(requests):
            while waiting and rng.random() < 0.4:
                name, (prompt, params, method) = waiting.pop(0)
                engine.add_request(name, prompt, params, method=method)
                if rng.random() < 0.2:
                    dropped.add(name)
            for name in dropped:
                if rng.random() < 0.3:
                    engine.abort_request(name)
            take(engine, found)
            found = {name: answer for name, answer in found.items() if name not in dropped}
    assert dropped
    want = answers_alone(requests)
    assert found == {name: want[name] for name in requests if name not in dropped}


def test_a_prompt_goes_in_between_the_rounds_of_others(tools, stand_in, engines):
    """The prefill of one request must not stop another request: a verification follows each piece
    of the prompt."""
    running = replace(PARAMS["greedy"], max_tokens=40)
    with engines("stand-in", 2, attention_backend="triton") as engine:
        engine.add_request("running", tools.prompt(9), running, method="pearl")
        engine.step()
        before = len(stand_in.cores[-1][1].order.launches())
        engine.add_request("long", tools.prompt(150), PARAMS["greedy"], method="pearl")
        while all(out.request_id != "long" for out in engine.step()):
            pass
        launches = stand_in.cores[-1][1].order.launches()[before:]
        launched = [name for lane, name in launches if lane == "target"]
    pieces = [i for i, name in enumerate(launched) if name == "prefill"]
    assert len(pieces) == 3
    for piece, following in pairwise(pieces):
        assert "verify" in launched[piece:following]


# {method of each seat: (rows of graphs for verification, rows of graphs for catch-up and steps)}
SIZES = {
    ("none",): ({16}, set()),
    ("none",) * 3: ({16}, set()),
    ("pearl",) * 3: ({16}, {4}),
    ("pearl", "none", "none"): ({16}, {1}),
    ("specbranch:k_max=3",) * 3: ({16}, {4, 16}),
    ("specbranch:k_max=3",) * 5: ({32}, {16}),
    ("tree:gamma=3,width=4,nodes=12",) * 3: ({48}, {16}),
    ("pearl", "tree:gamma=3,width=4,nodes=12"): ({32}, {1, 16}),
    (HEDGE,) * 4: ({64}, {64}),
    (HEDGE,) * 5: ({64}, {128}),
}


@pytest.mark.parametrize("methods", SIZES, ids="+".join)
def test_a_launch_takes_the_smallest_graph_that_holds_all(
    tools, tool, stand_in, checkpoints, methods
):
    pair = folders(checkpoints, FAMILY)
    config = tool.config_of(pair, "cuda", "none", max_model_len=tools.max_len, max_num_seqs=5)
    with Engine(config, methods=METHODS) as engine:
        for i, method in enumerate(methods):
            engine.add_request(f"{i}", tools.prompt(9), PARAMS["greedy"], method=method)
        for _ in range(3):
            engine.step()
        verified, drafted = sizes_taken(stand_in.picks())
    assert (verified, drafted) == SIZES[methods]


def test_graphs_follow_the_requests_that_are_there(tools, tool, stand_in, checkpoints):
    """The sampling graphs filter only while a request with filters is running. They shape only
    while a request that shapes is running."""
    config = tool.config_of(
        folders(checkpoints, FAMILY), "cuda", "none", max_model_len=tools.max_len, max_num_seqs=4
    )
    with Engine(config) as engine:
        for name, count in (("greedy", 20), ("filtered", 12), ("shaped", 6)):
            engine.add_request(name, tools.prompt(9), replace(PARAMS[name], max_tokens=count))
        found = {}
        while len(found) < 3:
            take(engine, found)
        kinds = [said[2:] for _, said in stand_in.picks() if said[0] == "choose"]
    assert [kind for kind, _ in groupby(kinds)] == [(True, True), (True, False), (False, False)]


def test_each_seat_has_rings_of_its_own(tools, checkpoints):
    """With several seats, each seat's ring has whole panels of 16 slots. Lane and core must agree
    where each ring begins."""
    sizes = []
    for seats in (1, 3):
        lanes = []
        tools.Play(
            *(tools.recorded(c, lanes) for c in checkpoints["Mistral"]), max_num_seqs=seats
        ).close()
        sizes.append([lane.slots for lane in lanes])
        assert [lane.buffers.kv.shape[3] for lane in lanes] == sizes[-1]
    [one, one_draft], [three, three_draft] = sizes
    assert three == 3 * -(-one // 16) * 16
    assert three_draft == 3 * -(-one_draft // 16) * 16
