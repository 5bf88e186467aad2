"""Contract under test: rounds of every method, recorded by the dry backend, leave no access
unordered. Each wait of round.cc is needed, or the host ensures what it promises. The lanes write
different parts of the state, except those that csrc/README.md lists. No op writes a part that it
does not declare; the dry backend checks this for each op."""

import pytest

from sbrt import _core
from tests.common import toys

POLICIES = toys.POLICIES | {
    "serial after a miss": {"gamma": 4, "branches": 6, "on_miss": 1, "burst": 3},
    "tree and look-up": toys.POLICIES["tree"] | {"lookup": True},
    "hedge and look-up": toys.POLICIES["hedge"]
    | {"on_miss": 1, "burst": 2, "burst_width": 4, "lookup": True},
}
FENCES = ("verify_done", "chain_ready", "draft_ready")
# The fences that the streams wait for, by method.
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
# Parts that both draft and target lane write (csrc/README.md, "Who writes what").
HANDED = {"chain", "rank"}
SHAPING = {"repetition_penalty": 1.2, "min_tokens": 5}


def kept(name, shaped=False, rejection=False, sequences=3):
    """The record of some sequences on the dry backend."""
    pair = _core.Toy(vocab=32, seed=7), _core.Toy(vocab=32, seed=7, noise16=6)
    runtime = _core.Runtime(
        *pair,
        body="dry",
        max_model_len=200,
        max_gamma=4,
        max_branches=8,
        max_width=2,
        rejection=rejection,
    )
    how = _core.Policy(**POLICIES[name], rejection=rejection)
    for seed in range(sequences):
        sampling = _core.Sampling(temperature=0.8, seed=seed)
        shaping = _core.Shaping(**(SHAPING if shaped else {}))
        runtime.begin([1, 2, 3] * 30, sampling, how, 60, [], shaping)
        assert len(runtime.run()) == 60
    return runtime.order


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
    """Without the host's waits only the fences remain, as if rounds were enqueued ahead."""
    assert kept(name, sequences=1).conflicts(host=False) == []


@every_method
def test_every_wait_is_needed(name):
    order = kept(name, sequences=1)
    for fence in FENCES:
        found = order.conflicts(without=[fence], host=False)
        assert bool(found) == (fence in WAITS[name]), (fence, found)


@every_method
def test_what_the_host_keeps_as_well(name):
    """The host reads record r before it enqueues round r + 1, so the draft's wait is redundant."""
    order = kept(name)
    assert order.conflicts(without=["verify_done"]) == []
    for fence in WAITS[name] - {"verify_done"}:
        assert order.conflicts(without=[fence]) != []


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
    assert {"settle_draft", "plan", "extend", "select", "hang_chain", "wait", "record"} <= said


@pytest.mark.exact
def test_a_million_ops_of_rounds():
    order = kept("specbranch", sequences=640)
    assert len(order) > 1_000_000
    assert order.conflicts() == []
    for fence in WAITS["specbranch"] - {"verify_done"}:  # see test_what_the_host_keeps_as_well
        assert order.conflicts(without=[fence]) != []
