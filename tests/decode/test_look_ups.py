"""Contract under test: with `lookup`, every chain gets tokens that look-ups find. They may be
tokens that the draft cannot predict. Chains stay within the policy's number of rows. The output
stays that of plain decoding. Look-ups find tokens only in the sequence's own text."""

import pytest

from sbrt import _core, _probe

POLICIES = {
    "tree": {"gamma": 4, "serial": True, "width": 4, "nodes": 12},
    "path": {"gamma": 4, "serial": True},
    "specbranch": {"gamma": 3, "branches": 4, "adaptive": True},
    "hedge": {"gamma": 3, "branches": 6, "likely": True, "width": 2, "nodes": 12},
    "hedge, serial": {"gamma": 3, "branches": 6, "likely": True, "on_miss": 1, "burst": 2},
}
every_policy = pytest.mark.parametrize("name", POLICIES)
PROMPT = [1, 2, 3, 7, 7, 7]
ONLY = _core.Shaping(allowed_token_ids=(7,))  # allows only token 7
TOKENS = 80


def core(**more):
    """Return an engine core whose draft's vocabulary lacks token 7."""
    toys = _core.Toy(vocab=8, seed=3), _core.Toy(vocab=4, seed=3)
    sizes = {"max_model_len": 200, "max_gamma": 4, "max_branches": 8, "max_width": 4}
    return _core.EngineCore(*toys, backend="sim", rejection=True, **sizes, **more)


def answer(engine, policy, shaping, **sampling):
    engine.begin(PROMPT, _core.Sampling(**sampling), policy, TOKENS, [], shaping)
    return engine.run(), engine.seat(0).stats


@every_policy
@pytest.mark.parametrize("rejection", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_the_draft_cannot_say_is_looked_up(name, rejection, temperature):
    engine = core()
    drafted = _probe.policy(**POLICIES[name], rejection=rejection)
    looking = _probe.policy(**POLICIES[name], rejection=rejection, lookup=True)
    without, slow = answer(engine, drafted, ONLY, temperature=temperature)
    with_it, fast = answer(engine, looking, ONLY, temperature=temperature)
    assert with_it == without == [7] * TOKENS
    assert slow.rounds == TOKENS
    assert fast.rounds < TOKENS / 4


@every_policy
def test_chains_stay_within_the_rows_of_the_policy(name):
    engine = core()
    policy = _probe.policy(**POLICIES[name], lookup=True)
    _, stats = answer(engine, policy, ONLY, temperature=0.0)
    deepest = max(n for n, rounds in enumerate(stats.histogram) if rounds)
    assert 8 <= deepest <= policy.most_nodes < 64


@every_policy
def test_a_sequence_learns_from_itself_alone(name):
    """A sequence has the same counters after other sequences as on a new core."""
    policy = _probe.policy(**POLICIES[name], lookup=True)
    sampling = {"temperature": 1.0, "seed": 5}
    fresh = answer(core(), policy, _core.Shaping(), **sampling)
    engine = core()
    for shaping, seed in ((ONLY, 1), (_core.Shaping(), 2), (_core.Shaping(), 3)):
        answer(engine, policy, shaping, temperature=1.0, seed=seed)
    tokens, stats = answer(engine, policy, _core.Shaping(), **sampling)
    assert tokens == fresh[0]
    assert stats.histogram == fresh[1].histogram
    assert stats.draft_tokens == fresh[1].draft_tokens
