"""Contract under test: guarantees of an engine core that do not concern its tokens. A worker's
exception reaches the caller, and the core can still be used. A NaN row ends a sequence with "error"
and gives no token. Rounds allocate nothing, and do not hold the GIL. Bad arguments are refused with
one sentence."""

import math
import re
import threading
import time
from collections import namedtuple

import pytest

from sbrt import EngineError, InvalidInputError, _core, _probe, reference

METHODS = {
    "none": {"gamma": 0},
    "draft_model": {"gamma": 4, "branches": 1, "serial": 1},
    "pearl": {"gamma": 4, "branches": 1},
    "specbranch": {"gamma": 4, "branches": 6, "adaptive": 1, "epsilon": 0.2},
}
SIZES = {"max_model_len": 200, "max_gamma": 4, "max_branches": 8}
BACKENDS = [("sim", 1), ("cpu", 1), ("cpu", 2), ("cpu", 3)]
SHAPING = {
    "repetition_penalty": 1.2,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "min_tokens": 20,
    "logit_bias": [(3, 1.0)],
    "allowed_token_ids": list(range(1, 30)),
    "bad_words": [[4], [5, 6]],
}
TOY = {"vocab": 32, "seed": 7}
Answer = namedtuple("Answer", "tokens finish stats")

every_backend = pytest.mark.parametrize(("backend", "threads"), BACKENDS)
every_method = pytest.mark.parametrize("method", METHODS)


def make(backend="sim", threads=1, target=None, draft=None, **sizes):
    toys = _core.Toy(**(TOY | (target or {}))), _core.Toy(**(TOY | {"noise16": 8} | (draft or {})))
    return _core.EngineCore(
        *toys, backend=backend, num_threads=threads, **(SIZES | {"debug": True} | sizes)
    )


def start(core, method, prompt=(1, 2, 3), max_tokens=60, stops=(), shaping=None, **sampling):
    sampling = _core.Sampling(**({"temperature": 0.8, "seed": 5} | sampling))
    policy, shaping = _probe.policy(**METHODS[method]), _core.Shaping(**(shaping or {}))
    core.begin(list(prompt), sampling, policy, max_tokens, list(stops), shaping)


def answer(core, method, **request):
    start(core, method, **request)
    return Answer(core.run(), core.seat(0).finish_reason, core.seat(0).stats)


def expected(method, prompt=(1, 2, 3), max_tokens=60, stops=(), target=None, **sampling):
    return Answer(
        *reference.generate(
            reference.Toy(**(TOY | (target or {}))),
            reference.Toy(**(TOY | {"noise16": 8})),
            prompt,
            reference.Sampling(**({"temperature": 0.8, "seed": 5} | sampling)),
            reference.Policy(**METHODS[method]),
            max_tokens=max_tokens,
            max_model_len=SIZES["max_model_len"],
            stop_token_ids=stops,
        )
    )


@every_backend
@every_method
@pytest.mark.parametrize("lane", ["target", "draft"])
def test_an_exception_in_a_worker_reaches_the_caller(backend, threads, method, lane):
    core = make(backend, threads, **{lane: {"throw_at": 30}})
    for _ in range(3):
        start(core, method)
        if lane == "draft" and method == "none":
            assert core.run() == expected(method).tokens
            continue
        with pytest.raises(EngineError, match="told to throw at position 30"):
            core.run()
        assert core.seat(0).finished
        assert core.run() == []
        short = answer(core, method, max_tokens=20)  # the core still works
        assert (short.tokens, short.finish) == expected(method, max_tokens=20)[:2]


@every_backend
def test_an_exception_in_prefill_reaches_the_caller(backend, threads):
    core = make(backend, threads, target={"throw_at": 70})
    start(core, "specbranch", prompt=[1] * 150)
    with pytest.raises(EngineError, match="told to throw at position 70"):
        core.run()
    assert core.seat(0).finished
    assert answer(core, "specbranch").tokens == expected("specbranch").tokens


@every_backend
@every_method
def test_a_nan_row_ends_with_error_and_keeps_what_came_before(backend, threads, method):
    failing = {"nan_at": 40}
    core = make(backend, threads, target=failing)
    got = answer(core, method)
    assert got.finish == "error"
    assert "not a number" in core.seat(0).error
    assert got.tokens == expected(method).tokens[: 40 + 1 - 3]
    assert got.tokens == expected(method, target=failing).tokens
    stop = got.tokens[-1]
    # The stop token comes before the NaN row, so the sequence ends with "stop".
    got = answer(core, method, stops=[stop])
    assert got.tokens == expected(method, stops=[stop]).tokens
    assert (got.finish, core.seat(0).stop_token, core.seat(0).error) == ("stop", stop, None)


def test_a_failing_draft_costs_no_token():
    core = make(draft={"nan_at": 20})
    for method in METHODS:
        assert answer(core, method).tokens == expected("none").tokens


@every_backend
@every_method
@pytest.mark.parametrize("shaping", [{}, SHAPING], ids=["bare", "shaped"])
def test_rounds_allocate_nothing(backend, threads, method, shaping):
    core = make(backend, threads, debug=False)
    counts = {}
    for max_tokens in (150, 10, 150):  # the first run is the warm-up
        start(core, method, max_tokens=max_tokens, shaping=shaping)
        before = _core.allocation_count()
        core.run()
        counts[max_tokens] = _core.allocation_count() - before
    assert counts[10] == counts[150] == 0


@every_backend
def test_the_gil_is_free_during_a_generation(backend, threads):
    big = {"vocab": 20_000}
    core = make(backend, threads, target=big, draft=big, debug=False)
    start(core, "specbranch", max_tokens=150, temperature=0)
    counted, done = [], threading.Event()

    def count():
        while not done.is_set():
            counted.append(time.monotonic())
            time.sleep(0.0005)

    thread = threading.Thread(target=count)
    thread.start()
    begin = time.monotonic()
    core.run()
    end = time.monotonic()
    done.set()
    thread.join()
    inside = sum(begin < when < end for when in counted)
    assert inside > 10  # several hundred if run() releases the GIL, else 0


def test_a_nan_is_an_error_even_where_it_is_masked():
    core = make(target={"nan_at": 40})  # the logit of token 0 is NaN
    got = answer(core, "specbranch", shaping={"allowed_token_ids": list(range(1, 32))})
    assert (got.finish, len(got.tokens)) == ("error", 40 + 1 - 3)
    assert "not a number" in core.seat(0).error


def test_a_shaped_sequence_leaves_nothing_to_the_next():
    core = make()
    for _ in range(2):
        start(core, "specbranch", shaping=SHAPING)
        core.run(max_rounds=4)
        assert answer(core, "specbranch").tokens == expected("none").tokens
    first = answer(core, "pearl", shaping=SHAPING)
    assert first.tokens == answer(make(), "none", shaping=SHAPING).tokens
    assert first.tokens != expected("none").tokens


@pytest.mark.parametrize("limit", [129, 130, 131, 194])
def test_a_serial_draft_that_stays_behind_at_its_limit(limit):
    """With gamma 63 every node is accepted until the draft's context is full. After that the target
    must continue alone."""
    core = make(draft={"noise16": 0, "max_positions": limit}, max_model_len=400, max_gamma=63)
    for length in (1, 2, 3, 4, 66, 67):
        policy = _probe.policy(gamma=63, branches=1, serial=1)
        core.begin([1] * length, _core.Sampling(temperature=0), policy, 400)
        tokens = core.run()
        assert core.seat(0).finish_reason == "length"
        core.begin([1] * length, _core.Sampling(temperature=0), _probe.policy(0), 400)
        assert tokens == core.run()


def test_interrupt_from_another_thread():
    core = make("cpu", 2, max_model_len=100_000, debug=False)
    start(core, "specbranch", max_tokens=99_000)
    timer = threading.Timer(0.05, core.interrupt)
    timer.start()
    tokens = core.run()
    timer.join()
    assert 0 < len(tokens) < 99_000
    assert not core.seat(0).finished
    assert core.seat(0).finish_reason is None
    tokens += core.run(max_rounds=5)
    assert tokens == answer(core, "none", max_tokens=len(tokens)).tokens


def test_limits_of_a_run():
    core = make()
    start(core, "pearl")
    tokens = core.run(max_rounds=3)
    assert core.seat(0).stats.rounds == 3
    tokens += core.run(seconds=1e-9)  # at least one round
    assert core.seat(0).stats.rounds == 4
    tokens += core.run()
    assert tokens == expected("pearl").tokens
    assert core.seat(0).stats.decode_ns > 0
    assert core.seat(0).stats.prefill_ns > 0


@every_method
def test_max_tokens_is_exact(method):
    core = make()
    whole = expected(method).tokens
    for most in (0, 1, 2, 3, 4, 5, 17):
        got = answer(core, method, max_tokens=most)
        assert (got.tokens, got.finish) == (whole[:most], "length")
    got = answer(core, method, prompt=[1] * 199)  # one position is left
    assert (len(got.tokens), got.finish) == (1, "length")


def test_a_stop_beats_the_length():
    core = make()
    last = expected("none", max_tokens=9).tokens[-1]
    got = answer(core, "specbranch", max_tokens=9, stops=[last])
    first = expected("none").tokens.index(last) + 1
    assert (len(got.tokens), got.finish) == (first, "stop")


def test_two_cores_share_models():
    toys = _core.Toy(**TOY), _core.Toy(**TOY, noise16=8)
    both = [_core.EngineCore(*toys, backend="cpu", num_threads=2, **SIZES) for _ in range(2)]
    for core in both:
        start(core, "specbranch")
    tokens = [[], []]
    while not all(core.seat(0).finished for core in both):
        for core, out in zip(both, tokens, strict=True):
            out += core.run(max_rounds=1)
    assert tokens == [expected("none").tokens] * 2


def test_the_lanes_overlap_on_the_cpu_backend():
    """In an overlapped round the draft's forwards must run during the target's forward."""
    big = {"vocab": 1 << 16, "noise16": 0}  # rounds take much longer than the wake-up of a thread
    core = make("cpu", 2, target=big, draft=big, debug=False, max_gamma=20)
    policy = _probe.policy(gamma=20, branches=1)
    core.begin([1, 2, 3], _core.Sampling(temperature=0), policy, 150)
    core.run()
    spans = {"target": [], "draft": []}
    for stream, name, begin, end, is_wait in core.trace():
        if name in ("verify", "catch_up", "step") and not is_wait:
            spans[stream].append((begin, end))
    both = sum(
        max(0, min(t_end, d_end) - max(t_begin, d_begin))
        for t_begin, t_end in spans["target"]
        for d_begin, d_end in spans["draft"]
    )
    verifying = sum(end - begin for begin, end in spans["target"])
    assert 0 < both <= verifying


GOOD_RUNTIME = {"max_model_len": 50, "num_threads": 2, "max_gamma": 4, "max_branches": 8}
GOOD_REQUEST = {
    "prompt": [1, 2],
    "max_tokens": 5,
    "stops": [],
    "sampling": {},
    "policy": {},
    "shaping": {},
}
NAN = math.nan


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_model_len": 1},
        {"max_model_len": 1 << 40},
        {"num_threads": 0},
        {"num_threads": -1},
        {"draft_threads": 0},
        {"draft_threads": 3},
        {"max_gamma": -1},
        {"max_gamma": 64},
        {"max_branches": 0},
        {"max_branches": 65},
        {"backend": "cuda"},
        {"vocab": -1},
        {"vocab": 33},
        {"first_round": -1},
    ],
    ids=str,
)
def test_a_core_that_cannot_be(wrong):
    refused(lambda: _core.EngineCore(_core.Toy(), _core.Toy(), **(GOOD_RUNTIME | wrong)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": []},
        {"prompt": [0] * 50},
        {"prompt": [32]},
        {"prompt": [-1]},
        {"stops": [32]},
        {"stops": [-1]},
        {"max_tokens": -1},
        {"policy": {"gamma": 5}},
        {"policy": {"gamma": -1}},
        {"policy": {"gamma": 4, "branches": 9}},
        {"policy": {"gamma": 4, "branches": -1}},
        {"policy": {"gamma": 4, "epsilon": NAN}},
        {"policy": {"gamma": 4, "epsilon": -0.1}},
        {"policy": {"gamma": 4, "epsilon": 1.1}},
        {"sampling": {"temperature": NAN}},
        {"sampling": {"temperature": math.inf}},
        {"sampling": {"top_p": 1.1}},
        {"sampling": {"top_p": NAN}},
        {"sampling": {"min_p": -0.1}},
        {"sampling": {"min_p": NAN}},
        {"sampling": {"top_k": -1}},
        {"shaping": {"repetition_penalty": 0.0}},
        {"shaping": {"repetition_penalty": NAN}},
        {"shaping": {"repetition_penalty": math.inf}},
        {"shaping": {"presence_penalty": 2.1}},
        {"shaping": {"presence_penalty": NAN}},
        {"shaping": {"frequency_penalty": -2.1}},
        {"shaping": {"min_tokens": -1}},
        {"shaping": {"logit_bias": [(32, 1.0)]}},
        {"shaping": {"logit_bias": [(-1, 1.0)]}},
        {"shaping": {"logit_bias": [(1, NAN)]}},
        {"shaping": {"logit_bias": [(1, 101.0)]}},
        {"shaping": {"allowed_token_ids": []}},
        {"shaping": {"allowed_token_ids": [32]}},
        {"shaping": {"bad_words": [[]]}},
        {"shaping": {"bad_words": [[1, 32]]}},
    ],
    ids=str,
)
def test_a_request_that_cannot_be(wrong):
    request = GOOD_REQUEST | wrong
    core = _core.EngineCore(_core.Toy(), _core.Toy(), **GOOD_RUNTIME)
    sampling = _core.Sampling(**request["sampling"])
    policy = _probe.policy(**({"gamma": 0} | request["policy"]))
    shaping = _core.Shaping(**request["shaping"])
    budget, stops = request["max_tokens"], request["stops"]
    refused(lambda: core.begin(request["prompt"], sampling, policy, budget, stops, shaping))
    good = GOOD_REQUEST["prompt"], _core.Sampling(), _probe.policy(4, 8), 5
    core.begin(*good)  # the core still works
    assert len(core.run()) == 5


@pytest.mark.parametrize(
    "make_it",
    [
        lambda: _core.Toy(vocab=1),
        lambda: _core.Toy(vocab=1 << 17),
        lambda: _core.Toy(noise16=-1),
        lambda: _core.Toy(max_positions=0),
        lambda: _core.Toy(window=-1),
        lambda: make().run(max_rounds=-1),
        lambda: make().run(seconds=NAN),
        lambda: make().run(seconds=-1.0),
    ],
)
def test_other_arguments_that_cannot_be(make_it):
    refused(make_it)


@pytest.mark.parametrize("name", ["most_nodes", "nonsense", "__init__"])
def test_what_cannot_be_set_is_no_field(name):
    with pytest.raises(InvalidInputError, match=rf"^Policy: unknown field {name}$"):
        _core.Policy(**{name: 3})


@pytest.mark.parametrize("name", ["hrad", "rejection"])
def test_a_switch_is_0_or_1(name):
    core = _core.EngineCore(_core.Toy(), None, **GOOD_RUNTIME)
    with pytest.raises(InvalidInputError, match=rf"^{name}: expected .* 2$"):
        core.begin([1], _core.Sampling(), _core.Policy(**{name: 2}), 5)


def test_drafting_without_a_draft():
    core = _core.EngineCore(_core.Toy(), None, **GOOD_RUNTIME)
    refused(lambda: core.begin([1], _core.Sampling(), _probe.policy(4, 1), 5))
    core.begin([1], _core.Sampling(), _probe.policy(0), 5)
    assert len(core.run()) == 5


def refused(make_it):
    """Check that the call raises an InvalidInputError of one sentence."""
    with pytest.raises(InvalidInputError) as raised:
        make_it()
    text = str(raised.value)
    assert isinstance(raised.value, ValueError)
    assert "\n" not in text
    assert re.match(r"[a-z][^.!?]*(\.\d[^.!?]*)*$", text), text
