"""Contract under test: a caller that takes one round at a time keeps the lanes as busy as one that
takes all rounds. The next round is enqueued before the record of the last one is read."""

from __future__ import annotations

import pytest

from sbrt import _core
from sbrt.methods import parse

TOKENS = 200


def make(body, threads, **more):
    target = _core.Toy(vocab=32, seed=7)
    draft = _core.Toy(vocab=32, seed=7, noise16=8)
    sizes = {"max_model_len": 400, "max_gamma": 15, "max_branches": 64, "max_width": 2}
    return _core.Runtime(target, draft, body=body, num_threads=threads, **sizes, **more)


def begin(runtime, method, stops=()):
    sampling = _core.Sampling(temperature=0.8, seed=5)
    runtime.begin([1, 2, 3], sampling, parse(method).policy(), TOKENS, list(stops))


def by_rounds(runtime, rounds, seat=None):
    seat, tokens = seat or runtime.seat(0), []
    while not seat.finished:
        tokens += runtime.run(max_rounds=rounds)
    return tokens


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("method", ["none", "lookup", "draft_model", "pearl", "specbranch"])
@pytest.mark.parametrize("ends", [False, True])
def test_a_round_at_a_time_runs_as_far_ahead_as_all_at_once(threads, method, ends):
    runtime = make("cpu", threads)
    begin(runtime, method)
    stops = runtime.run()[150:151] if ends else ()
    begin(runtime, method, stops)
    whole, want = runtime.run(), runtime.seat(0).stats
    for rounds in (1, 2, 3):
        begin(runtime, method, stops)
        assert by_rounds(runtime, rounds) == whole
        stats = runtime.seat(0).stats
        assert (stats.rounds, stats.rounds_ahead) == (want.rounds, want.rounds_ahead)
    if not ends:
        assert want.rounds_ahead > 0.6 * want.rounds


@pytest.mark.parametrize("method", ["none", "pearl", "specbranch"])
def test_in_virtual_order_nothing_runs_ahead(method):
    runtime = make("sim", 1)
    begin(runtime, method)
    by_rounds(runtime, 1)
    assert runtime.seat(0).stats.rounds_ahead == 0


def test_a_round_that_nobody_reads_touches_no_later_sequence():
    runtime, alone = make("cpu", 2), make("sim", 1)
    begin(alone, "specbranch")
    want = alone.run()
    for rounds in range(1, 12):
        begin(runtime, "specbranch")
        tokens = runtime.run(max_rounds=rounds)
        assert tokens == want[: len(tokens)]
        assert runtime.seat(0).stats.rounds == rounds
        assert len(runtime.seat(0).rounds()) == rounds
        runtime.end()
        begin(runtime, "pearl")
        assert runtime.run() == want


def test_what_is_not_taken_stays():
    runtime = make("cpu", 1)
    begin(runtime, "pearl")
    want = runtime.run()
    begin(runtime, "pearl")
    for _ in range(3):
        runtime.advance(max_rounds=2)
    tokens = runtime.seat(0).take()
    assert runtime.seat(0).take() == []
    assert tokens == want[: len(tokens)]
    runtime.advance()
    assert tokens + runtime.seat(0).take() == want


@pytest.mark.parametrize(("body", "threads"), [("sim", 1), ("cpu", 1), ("cpu", 2)])
@pytest.mark.parametrize("method", ["none", "draft_model", "pearl", "specbranch"])
def test_a_call_allocates_nothing(body, threads, method):
    runtime = make(body, threads)
    seat = runtime.seat(0)
    for _ in range(2):  # the first is the warm-up
        begin(runtime, method)
        before = _core.allocation_count()
        by_rounds(runtime, 1, seat)
        spent = _core.allocation_count() - before
    assert spent == 0


def test_auto_counts_every_round_of_a_caller_that_takes_one_at_a_time():
    arms = [arm.policy() for arm in parse("auto").arms]
    target, draft = _core.Toy(vocab=32, seed=7), _core.Toy(vocab=32, seed=7, noise16=8)
    sizes = {"max_model_len": 4000, "max_gamma": 15, "max_branches": 64, "max_width": 2}
    runtime = _core.Runtime(target, draft, body="cpu", num_threads=1, tuned=arms, **sizes)
    runtime.begin([1, 2, 3], _core.Sampling(temperature=0), None, 3000)
    tokens = by_rounds(runtime, 1)
    assert len(tokens) == 3000
    log = runtime.seat(0).rounds()
    assert (
        sum(count for count, _ in runtime.seat(0).tuned) == runtime.seat(0).stats.rounds == len(log)
    )
    assert sum(entry[-1] for entry in log) == len(tokens)


def test_decode_time_ends_with_the_last_round_that_was_read():
    runtime = make("cpu", 1)
    begin(runtime, "none")
    runtime.run(max_rounds=1)
    before = runtime.seat(0).stats.decode_ns
    runtime.interrupt()
    assert runtime.run() == []
    assert runtime.seat(0).stats.decode_ns == before > 0
    runtime.run(max_rounds=1)
    assert runtime.seat(0).stats.decode_ns > before
