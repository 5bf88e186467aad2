"""Contract under test: next to other sequences, a sequence has the tokens, finish reason and
counters that it has alone.

1 to 16 sequences run at the same time, with all methods, sampling parameters and shapings. They
come and go at random (crowd.py). Counters are compared only if a forward holds the rows of every
round.
"""

from functools import partial

import pytest

MANY = 64  # number of processes of a long run


@pytest.fixture
def run_crowd(deal):
    return partial(deal, "crowd.py")


def check_seen(seen, sequences):
    """Check that the random worlds covered every case that these tests are for."""
    assert seen["sequences"] >= sequences
    assert seen["mismatches"] == 0
    assert seen["finished"] + seen["dropped"] == seen["sequences"]
    for name in ("finish_stop", "finish_length", "finish_error", "dropped", "shaped", "by_chance"):
        assert seen[name] > 0, name
    assert seen["accepted"] > seen["sequences"]
    assert seen["branch_hits"] > seen["sequences"]
    assert seen["logprobs"] > seen["sequences"]
    assert seen["roomy"] > 0
    assert seen["reused"] > seen["sequences"]
    assert seen["most_at_once"] >= 16


def test_a_share_on_the_sim_backend(run_crowd):
    seen = run_crowd(700, seed=1, cpu=0.0)
    check_seen(seen, 700)
    # Some of the compared counters belong to sequences with trees.
    assert seen["roomy_trees"] > 0


def test_a_share_on_the_cpu_backend(run_crowd):
    check_seen(run_crowd(500, seed=2, cpu=1.0), 500)


@pytest.mark.exact
def test_twenty_thousand_sequences(run_crowd, capfd):
    with capfd.disabled():
        seen = run_crowd(20_000, seed=3, cpu=0.1, shares=MANY)
        print(f"\n{dict(seen)}")
    check_seen(seen, 20_000)
