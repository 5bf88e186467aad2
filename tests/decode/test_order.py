"""Contract under test: fences order all accesses of the lanes, in the rounds of every method, with
one sequence and with several. The dry backend records the rounds. Each wait of round.cc is needed,
except where the host waits as well. The lanes write separate parts of the state, except for two
parts that csrc/README.md names. An op writes only the parts that it declares, of the seats of its
launch: the dry backend checks each op."""

import random
from functools import cache

import pytest

from sbrt import _core, _probe
from tests.common import toys

POLICIES = toys.POLICIES | {
    "serial after a miss": {"gamma": 4, "branches": 6, "on_miss": 1, "burst": 3},
    "tree and look-up": toys.POLICIES["tree"] | {"lookup": True},
    "hedge and look-up": toys.POLICIES["hedge"]
    | {"on_miss": 1, "burst": 2, "burst_width": 4, "lookup": True},
}
FENCES = ("verify_done", "chain_ready", "draft_ready")
# {method: the fences that the lanes wait for}
WAITS = {
    "none": set(),
    "draft_model": {"verify_done", "chain_ready"},
    "lookup": set(),
    "pearl": {"verify_done", "draft_ready"},
    "specbranch": {"verify_done", "draft_ready"},
    "serial after a miss": set(FENCES),
    "hedge": {"verify_done", "draft_ready"},
    "tree": {"verify_done", "chain_ready"},
    "tree and look-up": {"verify_done", "chain_ready"},
    "hedge and look-up": set(FENCES),
}
# With these methods some misses need a serial burst. So the host waits for the last record before
# it enqueues a round.
NEVER_AHEAD = {"serial after a miss", "hedge and look-up"}
# Parts that both draft and target lane write (csrc/README.md, "Who writes what").
HANDED = {"chain", "rank"}
SHAPING = {"repetition_penalty": 1.2, "min_tokens": 5}


def dry_engine(**fields):
    """Return an engine core of two toys on the dry backend."""
    pair = _core.Toy(vocab=32, seed=7), _core.Toy(vocab=32, seed=7, noise16=6)
    sizes = {"max_model_len": 200, "max_gamma": 4, "max_branches": 8, "max_width": 2}
    return _core.EngineCore(*pair, backend="dry", **sizes, **fields)


@cache
def kept(name, shaped=False, rejection=False, sequences=3):
    """Run sequences one by one on the dry backend. Return the OrderBook, in which the order checker
    keeps the ops."""
    core = dry_engine(rejection=rejection)
    how = _probe.policy(**POLICIES[name], rejection=rejection)
    for seed in range(sequences):
        sampling = _core.Sampling(temperature=0.8, seed=seed)
        shaping = _core.Shaping(**(SHAPING if shaped else {}))
        core.begin([1, 2, 3] * 30, sampling, how, 60, [], shaping)
        assert len(core.run()) == 60
    return core.order


def crowded(names, seats=5, sequences=30):
    """Run several sequences at a time in the seats of a core on the dry backend. Return the core's
    OrderBook."""
    core = dry_engine(max_num_seqs=seats, max_piece=8, reuses_prefixes=True)
    rng, running = random.Random(1), []
    while sequences or running:
        while sequences and core.has_free_seat:
            policy = _probe.policy(**POLICIES[rng.choice(names)])
            prompt, sampling = [1, 2, 3] * rng.randint(1, 40), _core.Sampling(seed=sequences)
            running.append(core.admit(prompt, sampling, policy, rng.randint(1, 40)))
            sequences -= 1
        core.advance(1)
        for seat in [seat for seat in running if seat.finished or rng.random() < 0.02]:
            seat.release()
            running.remove(seat)
    return core.order


every_method = pytest.mark.parametrize("name", POLICIES)


@every_method
def test_nothing_is_unordered(name):
    order = kept(name)
    assert len(order) > 100
    assert order.conflicts() == []


@every_method
def test_shaped_rows_and_rejection_are_in_order_too(name):
    assert kept(name, shaped=True).conflicts() == []
    assert kept(name, rejection=True).conflicts() == []


@every_method
def test_nothing_is_unordered_if_the_host_runs_ahead(name):
    """The rounds of no method have a conflict, even if the checker ignores the host's waits. This
    is as if all rounds were enqueued ahead."""
    assert kept(name, sequences=1).conflicts(host=False) == []


@every_method
def test_every_wait_is_needed(name):
    order = kept(name, sequences=1)
    for fence in FENCES:
        found = order.conflicts(without=[fence], host=False)
        assert bool(found) == (fence in WAITS[name]), (fence, found)


@every_method
def test_what_the_host_waits_for_as_well(name):
    """With NEVER_AHEAD methods the host reads each record before it enqueues the next round, so the
    wait for verify_done is not needed. With other methods it enqueues rounds ahead, and every wait
    is needed."""
    order = kept(name)
    for fence in WAITS[name]:
        is_needed = fence != "verify_done" or name not in NEVER_AHEAD
        assert bool(order.conflicts(without=[fence])) == is_needed, fence


@every_method
def test_nothing_is_unordered_with_several_seats(name):
    order = crowded([name])
    assert len(order) > 1000
    assert order.conflicts() == []


def test_nothing_is_unordered_if_every_seat_has_its_own_method():
    order = crowded(list(POLICIES), sequences=60)
    assert order.conflicts() == []
    for fence in FENCES:
        assert order.conflicts(without=[fence]) != []


def test_ops_are_of_the_seats_that_take_part():
    """Only ops of the host may list all seats. An op of a lane lists the seats that its launch is
    for."""
    every = 2**64 - 1
    ops = [op for op in crowded(list(POLICIES)).ops() if op[1] not in ("wait", "record")]
    assert {op[0] for op in ops if op[4] == every} <= {"host"}
    assert len({op[4] for op in ops if op[0] == "target"}) > 5
    admitted = [op for op in ops if op[1] == "start_sequence"]
    assert {op[4] for op in admitted} == {1 << seat for seat in range(5)}
    assert all("target_batch" not in op[3] for op in admitted)


@every_method
def test_the_lanes_write_apart(name):
    order = kept(name)
    target, draft = (set(order.written_by(stream)) for stream in (1, 2))
    assert target & draft <= HANDED
    assert "outcome" not in draft
    assert not {part for part in draft if part.startswith("target")}
    assert not {part for part in target if part.startswith("draft")}


def test_streams_and_ops_have_their_names():
    ops = kept("specbranch").ops()
    assert {op[0] for op in ops} == {"host", "target", "draft"}
    said = {op[1] for op in ops}
    assert {"settle_draft", "plan", "extend", "select", "attach_chain", "wait", "record"} <= said


@pytest.mark.exact
def test_a_million_ops_of_rounds():
    order = kept("specbranch", sequences=640)
    assert len(order) > 1_000_000
    assert order.conflicts() == []
    for fence in WAITS["specbranch"]:
        assert order.conflicts(without=[fence]) != []
