"""Contract under test: under `rejection` an engine's tokens have the joint distribution of plain
decoding, over chain, branch and rollback. A chi-square tests 32 settings of gamma, k, temperature,
top-p, top-k, vocabularies and penalties (tally.py). At temperature 0 the tokens equal those of
plain decoding. The same seed and method give the same tokens on every backend, with any number of
threads."""

import json
import sys
from pathlib import Path

import pytest

from sbrt import InvalidInputError, _core, _probe

SCRIPT = Path(__file__).with_name("tally.py")
FAR = 5.0  # in standard deviations
SETTINGS = range(32)
BRANCHING = (*range(8, 24), 25, 27, 28, 30, 31)  # settings whose methods draft branches


@pytest.fixture
def run_tally(run_all):
    """Return a function run_tally(settings, sequences, shares=2). It divides the settings among
    `shares` processes, and returns {setting: its results}."""

    def run(settings, sequences, shares=2):
        command = [sys.executable, SCRIPT, "--sequences", sequences]
        outputs = run_all([*command, *settings[i::shares]] for i in range(shares))
        parts = [json.loads(out.splitlines()[-1]) for out in outputs]
        return {int(i): seen for part in parts for i, seen in part.items()}

    return run


def check_dist(found, sequences):
    assert sorted(found) == list(SETTINGS)
    for i, seen in found.items():
        assert abs(seen["distance"]) < FAR, (i, seen)
        assert seen["accepted"] > sequences / 100, (i, seen)  # some drafts were accepted
        assert seen["rollback_tokens"] > sequences / 100, (i, seen)  # some were rejected
        if i in BRANCHING:
            assert sequences / 100 < seen["branch_hits"] < seen["branch_rounds"], (i, seen)
    assert sum(seen["branches"] > 1.3 * seen["branch_rounds"] for seen in found.values()) > 10
    return found


def test_tokens_have_the_dist_of_plain_decoding(run_tally):
    check_dist(run_tally(SETTINGS, 6_000), 6_000)


@pytest.mark.exact
def test_a_million_sequences_of_every_setting(run_tally, capfd):
    with capfd.disabled():  # the terminal shows the progress, and the results below
        found = check_dist(run_tally(SETTINGS, 1_000_000, shares=26), 1_000_000)
        print({i: round(seen["distance"], 2) for i, seen in found.items()})


def engine(tally, setting, **more):
    toys = (_core.Toy(**toy) for toy in tally.toys(setting))
    return _core.EngineCore(*toys, **(tally.SIZES | {"backend": "sim", "rejection": True} | more))


def tokens(core, setting, policy, temperature, seed):
    dist = _core.Sampling(temperature=temperature, seed=seed)
    core.begin(list(setting["prompt"]), dist, policy, 40)
    return core.run()


@pytest.mark.parametrize("seeds", [1, pytest.param(3, marks=pytest.mark.exact)])
@pytest.mark.parametrize("i", SETTINGS)
def test_greedy_is_greedy_and_seeds_repeat(tally, i, seeds):
    setting = tally.SETTINGS[i]
    policy, plain = _probe.policy(**setting["policy"]), _probe.policy(0)
    core = engine(tally, setting)
    others = [engine(tally, setting, backend="cpu", num_threads=n) for n in (1, 3)]
    for seed in range(seeds):
        expected = tokens(core, setting, plain, 0.0, seed)
        assert tokens(core, setting, policy, 0.0, seed) == expected
        sampled = tokens(core, setting, policy, 3.0, seed)
        for other in (core, *others):
            assert tokens(other, setting, policy, 3.0, seed) == sampled
        assert tokens(core, setting, policy, 3.0, seed + 100) != sampled


def test_rounds_allocate_nothing(tally):
    setting = tally.SETTINGS[23]
    core, policy = engine(tally, setting), _probe.policy(**setting["policy"])
    tokens(core, setting, policy, 2.0, 0)
    core.begin([1, 2], _core.Sampling(temperature=2.0, seed=1), policy, 50)
    before = _core.allocation_count()
    core.run()
    assert _core.allocation_count() == before


def test_an_engine_built_without_it_refuses(tally):
    core = engine(tally, tally.SETTINGS[0], rejection=False)
    with pytest.raises(InvalidInputError, match="built for, got rejection"):
        tokens(core, tally.SETTINGS[0], _probe.policy(0, rejection=True), 1.0, 0)


@pytest.mark.parametrize("i", [1, 9, 13, 17, 21])
def test_a_failed_row_is_an_error(tally, i):
    setting = tally.SETTINGS[i]
    target, draft = tally.toys(setting)
    toys = _core.Toy(**target, nan_at=12), _core.Toy(**draft)
    core = _core.EngineCore(*toys, backend="sim", rejection=True, **tally.SIZES)
    policy = _probe.policy(**setting["policy"])
    for seed in range(20):
        found = tokens(core, setting, policy, 2.0, seed)
        assert core.seat(0).finish_reason == "error"
        assert "not a number" in core.seat(0).error
        assert len(found) == 12 + 1 - len(setting["prompt"])


@pytest.mark.parametrize("i", SETTINGS)
def test_the_length_is_exact_and_only_committed_stops_end(tally, i):
    setting = tally.SETTINGS[i]
    core, policy = engine(tally, setting), _probe.policy(**setting["policy"])
    prompt, dist = list(setting["prompt"]), {"temperature": 3.0}
    for seed in range(10):
        core.begin(prompt, _core.Sampling(**dist, seed=seed), policy, 20)
        whole = core.run()
        assert (len(whole), core.seat(0).finish_reason) == (20, "length")
        core.begin(prompt, _core.Sampling(**dist, seed=seed), policy, 20, [0])
        cut = core.run()
        if core.seat(0).finish_reason == "stop":
            assert cut.index(0) == len(cut) - 1
        else:
            assert (len(cut), 0 in cut) == (20, False)
