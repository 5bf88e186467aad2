"""Contract under test: under `rejection` an engine whose draft sits out rounds has tokens with the
joint distribution of plain decoding. `auto` changes to plain decoding while a chain waits to be
verified. In that round every token is the target's own sample, and a drafted token is accepted if
it equals the sample. In later rounds the draft takes part again. A chi-square test compares the
counts of the first tokens with their probabilities (tally.py)."""

from collections import Counter

import numpy as np
import pytest

from sbrt import _core, _probe

FAR = 5.0  # in standard deviations
SEQUENCES = 6_000, pytest.param(300_000, marks=pytest.mark.exact)
POLICIES = {
    "ends": {"gamma": 2, "branches": 4},
    "likely": {"gamma": 2, "branches": 6, "likely": True},
    "trees": {"gamma": 2, "branches": 6, "likely": True, "width": 2, "nodes": 4},
    "look-ups": {"gamma": 2, "branches": 6, "likely": True, "on_miss": 2, "burst": 2},
}
PLAIN = {"gamma": 0, "rejection": True}


def costs(nodes):
    """Return costs in which a forward of the target is cheap up to 1 + nodes rows. So drafts pay
    for a sequence that runs alone, but not next to another sequence."""
    rows = range(1, _core.MAX_ROWS + 1)
    target = [1000 if n <= 1 + nodes else 100_000 for n in rows]
    draft = [10] * len(rows)
    lanes = {"target_overlapped": target, "draft_overlapped": draft}
    return _core.Costs(target=target, draft=draft, round_ns=5, **lanes)


def engine(tally, s):
    tuned = [_probe.policy(**policy) for policy in (PLAIN, s["policy"])]
    nodes = s["policy"].get("nodes", s["policy"]["gamma"])
    return _core.EngineCore(
        *(_core.Toy(**toy) for toy in tally.toys(s)), backend="sim", rejection=True, tuned=tuned,
        costs=costs(nodes), max_num_seqs=2, **(tally.SIZES | {"max_model_len": 200}),
    )  # fmt: skip


def answer(core, s, seed):
    """Return (tokens, rounds) of a sequence that another one joins for two rounds. In these rounds
    the draft sits out."""
    sampling = _core.Sampling(seed=seed, temperature=s["temperature"])
    seat = core.admit(list(s["prompt"]), sampling, None, 14)
    core.advance(1 + seed % 2)
    visitor = core.admit([1, 0], _core.Sampling(temperature=0), _probe.policy(0), 2)
    while not (seat.finished and visitor.finished):
        core.advance(1)
    found = seat.take(), seat.rounds()
    seat.release()
    visitor.release()
    return found


@pytest.mark.parametrize("sequences", SEQUENCES)
@pytest.mark.parametrize("name", POLICIES)
def test_a_draft_that_sits_out_changes_no_probability(tally, name, sequences):
    s = tally.setting(POLICIES[name], vocab=3, cells=6, temperature=2.5, noise=32)
    core, counts, seen = engine(tally, s), np.zeros((4,) * 6, np.int64), Counter()
    for seed in range(sequences):
        tokens, rounds = answer(core, s, seed)
        counts[tuple(tokens[:6])] += 1
        for _, depth, accepted, branches, hit, _ in rounds:
            seen["hits"] += hit
            if depth > 0 and branches == 0:  # only a draft that sits out leaves no branches
                seen["rounds"] += 1
                seen["accepted"] += accepted
    distance = tally.distance(counts, tally.expected(s))
    assert abs(distance) < FAR
    assert seen["hits"] > sequences / 10
    assert seen["rounds"] > sequences / 10
    assert seen["accepted"] > sequences / 20
