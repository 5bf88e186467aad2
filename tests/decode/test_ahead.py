"""Contract under test: a caller that takes one round at a time keeps the lanes as busy as a caller
that takes all rounds in one call. The next round is enqueued before the record of the last one is
read."""

from __future__ import annotations

import pytest

from sbrt import _core
from sbrt.methods import parse

TOKENS = 200


def make(backend, threads, **more):
    target = _core.Toy(vocab=32, seed=7)
    draft = _core.Toy(vocab=32, seed=7, noise16=8)
    sizes = {"max_model_len": 400, "max_gamma": 15, "max_branches": 64, "max_width": 2}
    return _core.EngineCore(target, draft, backend=backend, num_threads=threads, **sizes, **more)


def begin(core, method, stops=()):
    sampling = _core.Sampling(temperature=0.8, seed=5)
    core.begin([1, 2, 3], sampling, parse(method).policy(), TOKENS, list(stops))


def by_rounds(core, rounds, seat=None):
    seat, tokens = seat or core.seat(0), []
    while not seat.finished:
        tokens += core.run(max_rounds=rounds)
    return tokens


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("method", ["none", "lookup", "draft_model", "pearl", "specbranch"])
@pytest.mark.parametrize("ends", [False, True])
def test_a_round_at_a_time_runs_as_far_ahead_as_all_at_once(threads, method, ends):
    core = make("cpu", threads)
    begin(core, method)
    stops = core.run()[150:151] if ends else ()
    begin(core, method, stops)
    whole, want = core.run(), core.seat(0).stats
    for rounds in (1, 2, 3):
        begin(core, method, stops)
        assert by_rounds(core, rounds) == whole
        stats = core.seat(0).stats
        assert (stats.rounds, stats.rounds_ahead) == (want.rounds, want.rounds_ahead)
    if not ends:
        assert want.rounds_ahead > 0.6 * want.rounds


@pytest.mark.parametrize("method", ["none", "pearl", "specbranch"])
def test_in_virtual_order_nothing_runs_ahead(method):
    core = make("sim", 1)
    begin(core, method)
    by_rounds(core, 1)
    assert core.seat(0).stats.rounds_ahead == 0


def test_a_round_that_nobody_reads_touches_no_later_sequence():
    core, alone = make("cpu", 2), make("sim", 1)
    begin(alone, "specbranch")
    want = alone.run()
    for rounds in range(1, 12):
        begin(core, "specbranch")
        tokens = core.run(max_rounds=rounds)
        assert tokens == want[: len(tokens)]
        assert core.seat(0).stats.rounds == rounds
        assert len(core.seat(0).rounds()) == rounds
        core.end()
        begin(core, "pearl")
        assert core.run() == want


def test_what_is_not_taken_stays():
    core = make("cpu", 1)
    begin(core, "pearl")
    want = core.run()
    begin(core, "pearl")
    for _ in range(3):
        core.advance(max_rounds=2)
    tokens = core.seat(0).take()
    assert core.seat(0).take() == []
    assert tokens == want[: len(tokens)]
    core.advance()
    assert tokens + core.seat(0).take() == want


@pytest.mark.parametrize(("backend", "threads"), [("sim", 1), ("cpu", 1), ("cpu", 2)])
@pytest.mark.parametrize("method", ["none", "draft_model", "pearl", "specbranch"])
def test_a_call_allocates_nothing(backend, threads, method):
    core = make(backend, threads)
    seat = core.seat(0)
    for _ in range(2):  # the first run is the warm-up
        begin(core, method)
        before = _core.allocation_count()
        by_rounds(core, 1, seat)
        spent = _core.allocation_count() - before
    assert spent == 0


def test_auto_counts_every_round_of_a_caller_that_takes_one_at_a_time():
    arms = [arm.policy() for arm in parse("auto").arms]
    target, draft = _core.Toy(vocab=32, seed=7), _core.Toy(vocab=32, seed=7, noise16=8)
    sizes = {"max_model_len": 4000, "max_gamma": 15, "max_branches": 64, "max_width": 2}
    core = _core.EngineCore(target, draft, backend="cpu", num_threads=1, tuned=arms, **sizes)
    core.begin([1, 2, 3], _core.Sampling(temperature=0), None, 3000)
    tokens = by_rounds(core, 1)
    assert len(tokens) == 3000
    log = core.seat(0).rounds()
    assert sum(count for count, _ in core.seat(0).tuned) == core.seat(0).stats.rounds == len(log)
    assert sum(entry[-1] for entry in log) == len(tokens)


def test_decode_time_ends_with_the_last_round_that_was_read():
    core = make("cpu", 1)
    begin(core, "none")
    core.run(max_rounds=1)
    before = core.seat(0).stats.decode_ns
    core.interrupt()
    assert core.run() == []
    assert core.seat(0).stats.decode_ns == before > 0
    core.run(max_rounds=1)
    assert core.seat(0).stats.decode_ns > before
