"""Contract under test: engine and reference have the same tokens, finish reason, counters and
log-probs. Every method has the tokens of plain decoding, except under `rejection`.

Gamma, k, draft quality, sampling parameters, stops, penalties, masks and lengths are random, on
both backends (fuzz.py).
"""

import pytest

from sbrt import reference

SHAPING = reference.Shaping._fields
MANY = 64  # number of processes of a long run
METHODS = ("--methods", "3")  # a sequence runs `none`, and three of the other eight methods
ACCEPTING = ("draft_model", "pearl", "specbranch", "on_miss", "lookup", "adaedl", "tree", "hedge")
HITTING = ("pearl", "specbranch", "on_miss", "hedge")


@pytest.fixture
def run_fuzz(deal):
    def run(sequences, seed, cpu, *more, shares=2):
        return deal("fuzz.py", sequences, seed, cpu, *METHODS, *more, shares=shares)

    return run


def check_seen(seen, sequences, each_by_chance=True):
    """Check that the random worlds covered every case that this test is for. Under `rejection` each
    method must cover every case or, if `each_by_chance` is false, at least one method must."""
    assert seen["sequences"] >= sequences
    assert seen["generations"] == 4 * seen["sequences"]
    assert seen["mismatches"] == 0
    assert seen["logprobs"] > seen["sequences"]
    for name in ("finish_stop", "finish_length", "finish_error", "abandoned", *SHAPING):
        assert seen[name] > 0, name
    for counter, methods in (("accepted", ACCEPTING), ("branch_hits", HITTING)):
        by_chance = [seen[f"{counter}_{method}_by_chance"] for method in methods]
        assert min(by_chance) > 0 if each_by_chance else sum(by_chance) > 0, (counter, by_chance)
        for method, n in zip(methods, by_chance, strict=True):
            assert seen[f"{counter}_{method}"] > n, (counter, method)
    assert 0 < seen["branch_hits"] < seen["branch_rounds"] < seen["rounds"]
    assert 0 < seen["accepted"] < seen["draft_tokens"]
    assert seen["discarded_branch_tokens"] > 0
    assert seen["draft_limit_rounds"] > 0


def test_a_share_on_the_sim_backend(run_fuzz):
    check_seen(run_fuzz(96, seed=1, cpu=0.0), 96)


def test_a_share_on_the_cpu_backend(run_fuzz):
    check_seen(run_fuzz(96, seed=14, cpu=1.0), 96)


def test_drafts_that_know_fewer_tokens_than_the_target(run_fuzz):
    """Some drafts have only two of the target's sixty tokens. A draft must continue after tokens
    that it does not have."""
    check_seen(run_fuzz(64, 44, 0.0, "--small", "1"), 64, each_by_chance=False)


def test_drafts_whose_head_has_some_of_their_tokens(run_fuzz):
    """A draft's LM head has at least one of the draft's ids. Half of the drafts also lack target
    tokens.

    Runs on the sim backend. On the cpu backend, tests with crowd.py have such drafts.
    """
    seen = run_fuzz(64, 45, 0.0, "--trimmed", "1", "--small", "0.5")
    check_seen(seen, 64, each_by_chance=False)


@pytest.mark.exact
def test_many_drafts_whose_head_has_some_of_their_tokens(run_fuzz):
    check_seen(run_fuzz(4000, 6, 0.1, "--trimmed", "1", "--small", "0.3", shares=MANY), 4000)


@pytest.mark.exact
def test_many_drafts_that_know_fewer_tokens(run_fuzz):
    check_seen(run_fuzz(4000, 5, 0.1, "--small", "1", shares=MANY), 4000)


@pytest.mark.exact
def test_two_hundred_thousand_sequences(run_fuzz, capfd):
    with capfd.disabled():  # the terminal shows the progress, and the results below
        seen = run_fuzz(200_000, seed=3, cpu=0.02, shares=MANY)
        print(f"\n{dict(seen)}")
    check_seen(seen, 200_000)
    assert seen["on_cpu"] > 5_000
