"""Contract under test: virtual time. A forward takes the time that a table gives for its number of
rows. A round whose lanes overlap takes as long as the longer lane. A serial round takes as long as
both lanes together. The host's time is added once a round. Nothing else takes time. The clock does
not change the tokens."""

from itertools import pairwise

import pytest

from sbrt import InvalidInputError, _core, _probe

ROWS = range(1, _core.MAX_ROWS + 1)
TARGET = [1000 + 7 * rows for rows in ROWS]
DRAFT = [100 + 11 * rows for rows in ROWS]
COSTS = {"target": TARGET, "draft": DRAFT, "target_overlapped": TARGET, "draft_overlapped": DRAFT}
SLOW = {"draft": [40 * t for t in DRAFT], "draft_overlapped": [40 * t for t in DRAFT]}
POLICIES = {
    "none": {"gamma": 0},
    "serial": {"gamma": 3, "branches": 1, "serial": 1},
    "one branch": {"gamma": 3, "branches": 1},
    "four branches": {"gamma": 3, "branches": 4},
    "cut": {"gamma": 3, "branches": 1, "epsilon": 1.0},
    "adaptive": {"gamma": 5, "branches": 6, "adaptive": 1, "epsilon": 0.2},
}
SERIAL = ("none", "serial")
OVERLAPPED = ("one branch", "four branches", "cut", "adaptive")
AGREES, NEVER = {"noise16": 0}, {"noise16": 0, "seed": 8}


def t(rows):
    return DRAFT[rows - 1]


def T(rows):
    return TARGET[rows - 1]


def make(toy=AGREES, backend="sim", sizes=None, **costs):
    toys = _core.Toy(vocab=64, seed=7), _core.Toy(**({"vocab": 64, "seed": 7} | toy))
    sizes = {"max_model_len": 400, "max_gamma": 8, "max_branches": 8} | (sizes or {})
    return _core.EngineCore(*toys, backend=backend, costs=_core.Costs(**(COSTS | costs)), **sizes)


def start(core, name, max_tokens, prompt=(1, 2, 3)):
    policy = _probe.policy(**POLICIES[name])
    core.begin(list(prompt), _core.Sampling(temperature=0), policy, max_tokens)


def total(core, name, max_tokens):
    """Run one sequence; return (number of rounds, number of hits, ns of virtual time)."""
    start(core, name, max_tokens)
    assert len(core.run()) == max_tokens
    return (
        core.seat(0).stats.rounds,
        core.seat(0).stats.branch_hits,
        core.seat(0).stats.decode_ns,
    )


def rounds_of(core, since):
    """Return (duration, target lane's work, draft lane's work) of each traced round, in ns."""
    found, begin, spans = [], since, core.trace(since)
    ends = [end for lane, name, _, end, _ in spans if (lane, name) == ("target", "select")]
    for end in ends:
        work = {"target": 0, "draft": 0}
        for lane, _, first, last, is_wait in spans:
            if not is_wait and begin <= first and last <= end:
                work[lane] += last - first
        found.append((end - begin, work["target"], work["draft"]))
        begin = end
    return found


# The expected times below are computed by hand. The first chain is empty. A chain of 3 that is
# accepted gives 4 tokens. Both lanes prefill the prompt without its last token.


def test_plain_decoding_costs_its_forwards():
    assert total(make(), "none", 10) == (10, 0, 10 * T(1))


@pytest.mark.parametrize("slow", [{}, SLOW], ids=["quick draft", "slow draft"])
def test_overlapped_rounds_that_hit(slow):
    factor = 40 if slow else 1
    burst = factor * (t(1) + 3 * t(1))  # catch-up (root or tail's last node), then 3 steps
    wanted = max(T(1), burst) + 2 * max(T(4), burst)
    assert total(make(**slow), "one branch", 9) == (3, 2, wanted)


def test_overlapped_rounds_that_miss():
    """Every round misses, so the chain stays empty. Every round has a catch-up for the root, and
    the test checks its time."""
    assert total(make(NEVER), "one branch", 6) == (6, 0, 6 * max(T(1), 4 * t(1)))
    assert total(make(NEVER, **SLOW), "one branch", 6) == (6, 0, 6 * 40 * 4 * t(1))


def test_a_step_counts_the_rows_of_all_branches():
    wanted = 40 * (3 * t(1) + 3 * 3 * t(4))
    assert total(make(**SLOW), "four branches", 9) == (3, 2, wanted)


def test_a_forward_without_rows_costs_nothing():
    """The chain is cut in every round. The draft has already processed the next root, so no round
    after the first has a catch-up. A catch-up without rows takes no time."""
    assert total(make(**SLOW), "cut", 5) == (5, 4, 40 * (4 * t(1) + 4 * 3 * t(1)))


def test_serial_rounds_that_stand():
    """No step of a burst processes the chain's last node. If the chain is accepted, the first step
    of the next burst processes that node together with the root."""
    wanted = (3 * t(1) + T(4)) + 2 * (t(2) + 2 * t(1) + T(4))
    assert total(make(), "serial", 12) == (3, 0, wanted)


def test_serial_rounds_that_fall():
    # Round r = 0 to 4 verifies the root and min(3, 4 - r) nodes, because 5 - r tokens may still be
    # emitted.
    verified = [4, 4, 3, 2, 1]
    assert total(make(NEVER), "serial", 5) == (5, 0, 5 * 3 * t(1) + sum(map(T, verified)))


def test_past_the_drafts_limit_only_the_target_costs():
    core = make({"max_positions": 8})
    start(core, "serial", 30)
    core.run(max_rounds=4)
    before = core.seat(0).stats
    assert before.draft_limit_rounds > 0
    core.run(max_rounds=5)
    assert core.seat(0).stats.decode_ns - before.decode_ns == 5 * T(1)


@pytest.mark.parametrize("name", ["none", "serial"])
def test_a_sequence_taken_round_by_round_lasts_as_long(name):
    core = make({"noise16": 8})
    want = total(core, name, 60)
    start(core, name, 60)
    tokens = 0
    while not core.seat(0).finished:
        tokens += len(core.run(max_rounds=1))
    assert tokens == 60
    stats = core.seat(0).stats
    assert (stats.rounds, stats.branch_hits, stats.decode_ns) == want


def test_which_table_holds_and_the_hosts_share():
    other = {"target_overlapped": [3 * x for x in TARGET], "draft_overlapped": [1] * len(ROWS)}
    core = make(**other, round_ns=50_000)
    assert total(core, "none", 10) == (10, 0, 10 * (T(1) + 50_000))
    assert total(core, "serial", 4) == (1, 0, 3 * t(1) + T(4) + 50_000)
    assert total(core, "one branch", 9) == (3, 2, 3 * (T(1) + 2 * T(4) + 50_000))


def test_prefill_costs_nothing():
    core = make()
    start(core, "one branch", 1, prompt=[1] * 300)
    core.run()
    assert (core.seat(0).stats.prefill_ns, core.seat(0).stats.decode_ns) == (
        0,
        max(T(1), 4 * t(1)),
    )


# The tests below check the times of arbitrary rounds in the trace.


@pytest.mark.parametrize("name", OVERLAPPED)
@pytest.mark.parametrize("costs", [{}, SLOW, {"draft_overlapped": [7 * x for x in DRAFT]}])
def test_an_overlapped_round_lasts_as_long_as_its_longer_lane(name, costs):
    core = make({"noise16": 8}, **costs)
    for _ in range(3):
        since = core.now_ns
        rounds, hits, ns = total(core, name, 200)
        assert 0 < hits < rounds
        found = rounds_of(core, since)
        assert [length for length, *_ in found] == [max(works) for _, *works in found]
        assert (len(found), sum(length for length, *_ in found)) == (rounds, ns)


@pytest.mark.parametrize("name", SERIAL)
@pytest.mark.parametrize("costs", [{}, SLOW])
def test_a_serial_round_lasts_as_long_as_both_lanes(name, costs):
    core = make({"noise16": 8}, **costs)
    for _ in range(3):
        since = core.now_ns
        rounds, _, ns = total(core, name, 200)
        found = rounds_of(core, since)
        assert [length for length, *_ in found] == [sum(works) for _, *works in found]
        assert (len(found), sum(length for length, *_ in found)) == (rounds, ns)


def test_lanes_wait_for_each_other_in_virtual_time():
    core = make({"noise16": 8}, **SLOW)
    total(core, "one branch", 50)
    spans = core.trace()
    waits = [
        (first, last) for _, name, first, last, wait in spans if wait and name == "draft_ready"
    ]
    steps = {last for _, name, _, last, wait in spans if name == "step" and not wait}
    assert all(last in steps and last > first for first, last in waits)
    for lane in ("target", "draft"):
        own = [(first, last) for stream, _, first, last, _ in spans if stream == lane]
        assert own == sorted(own)
        assert all(a[1] <= b[0] for a, b in pairwise(own))


def test_no_clock_changes_a_token_and_no_machine_a_clock():
    answers = []
    for costs in ({}, {}, SLOW):
        core = make({"noise16": 8}, **costs)
        start(core, "adaptive", 200)
        answers.append((core.run(), core.trace(), core.seat(0).stats.decode_ns))
    assert answers[0] == answers[1]
    assert answers[0][0] == answers[2][0]
    assert answers[0][2] < answers[2][2]
    core = make()
    start(core, "none", 200)
    assert core.run() == answers[0][0]


def test_slices_of_a_run_add_up():
    core, whole = make({"noise16": 8}), make({"noise16": 8})
    start(core, "adaptive", 100)
    while not core.seat(0).finished:
        core.run(max_rounds=1)
    assert core.seat(0).stats.decode_ns == total(whole, "adaptive", 100)[2]


def test_the_clock_goes_on_after_a_failure():
    core = make({"throw_at": 20})
    start(core, "one branch", 60)
    with pytest.raises(_core.EngineError, match="told to throw"):
        core.run()
    assert total(core, "one branch", 9)[2] == max(T(1), 4 * t(1)) + 2 * max(T(4), 4 * t(1))


def test_rounds_in_virtual_time_allocate_nothing():
    core = make({"noise16": 8})
    counts = {}
    for max_tokens in (150, 10, 150):  # the first run is the warm-up
        start(core, "adaptive", max_tokens)
        before = _core.allocation_count()
        core.run()
        counts[max_tokens] = _core.allocation_count() - before
    assert counts[10] == counts[150] == 0


@pytest.mark.parametrize(
    "wrong",
    [{"target": TARGET[1:]}, {"draft": []}, {"draft": [-1, *DRAFT[1:]]}, {"round_ns": -1},
     {"target_overlapped": [1 << 60, *TARGET[1:]]}, {"backend": "cpu"}],
    ids=lambda wrong: next(iter(wrong)),
)  # fmt: skip
def test_costs_that_cannot_be(wrong):
    with pytest.raises(InvalidInputError, match=r"expected .* but got"):
        make(**wrong)
