"""Contract under test: each lane may have a memory of its own. Every method then has the tokens and
counters that it has with one memory, with one sequence and with several. An op reaches only the
memory of its lane: any other access faults. The lanes send each other only what csrc/state/mail.h
lists, and each mail and each fence is needed."""

import random

import pytest

from sbrt import _core, _probe
from tests.decode.test_order import FENCES, POLICIES

# {fence: the mail that is sent before this fence is recorded}. A verdict is also sent before
# verify_done is recorded, with every method.
MAILS = {"chain_ready": "burst", "draft_ready": "offer", "verdict": "verdict"}
SERIAL, OVERLAPPED = {"verdict", "burst"}, {"verdict", "offer"}
NEEDED = {
    "none": set(),
    "lookup": set(),
    "draft_model": SERIAL,
    "tree": SERIAL,
    "tree and look-up": SERIAL,
    "pearl": OVERLAPPED,
    "specbranch": OVERLAPPED,
    "hedge": OVERLAPPED,
    "serial after a miss": SERIAL | OVERLAPPED,
    "hedge and look-up": SERIAL | OVERLAPPED,
}
REQUESTS = {
    "greedy": ({"temperature": 0}, {}),
    "sampled": ({"temperature": 0.8, "seed": 3, "top_p": 0.9}, {}),
    "shaped": (
        {"temperature": 0.8, "seed": 4},
        {
            "repetition_penalty": 1.3,
            "presence_penalty": 0.3,
            "min_tokens": 5,
            "bad_words": [[1, 2], [9]],
        },
    ),
}
PROMPT = [1, 2, 3] * 20
SIZES = {"max_model_len": 200, "max_gamma": 4, "max_branches": 8, "max_width": 2}

every_method = pytest.mark.parametrize("name", POLICIES)


def engine(apart, backend="dry", **fields):
    """Return an engine core of two toys. apart: each lane has its own memory."""
    pair = _core.Toy(vocab=32, seed=7), _core.Toy(vocab=32, seed=7, noise16=6)
    return _core.EngineCore(
        *pair, backend=backend, draft_device=1 if apart else -1, **SIZES, **fields
    )


def answers(core, name, **rule):
    """Answer each kind of request, one after the other. Return the list of their (tokens,
    counters)."""
    found = []
    for sampling, shaping in REQUESTS.values():
        how = _core.Sampling(**sampling), _probe.policy(**POLICIES[name], **rule), 40
        core.begin(PROMPT, *how, [], _core.Shaping(**shaping))
        found.append((core.run(), counters(core.seat(0))))
    return found


def counters(seat):
    """Return a sequence's counters, without times and the number of rounds enqueued ahead."""
    kept = seat.stats
    names = [n for n in dir(kept) if not n.startswith("_") and not n.endswith("_ns")]
    return {n: getattr(kept, n) for n in names if n != "rounds_ahead"}


def crowd(apart, names, backend="dry", rule=None, **fields):
    """Run sequences that share three seats. Return their tokens, by number of the request, and the
    engine core."""
    core = engine(apart, backend, max_num_seqs=3, max_piece=8, **fields)
    rule = rule or {}
    rng, running, found = random.Random(5), {}, {}
    waiting = list(enumerate(names * 3))
    while waiting or running:
        while waiting and core.has_free_seat:
            number, name = waiting.pop(0)
            sampling, shaping = list(REQUESTS.values())[number % len(REQUESTS)]
            policy = _probe.policy(**POLICIES[name], **rule)
            how = _core.Sampling(**sampling | {"seed": number}), policy
            prompt = [1, 2, 3] * rng.randint(1, 30)
            seat = core.admit(prompt, *how, rng.randint(1, 40), [], _core.Shaping(**shaping))
            running[number] = seat
            found[number] = []
        core.advance(1)
        for number, seat in list(running.items()):
            found[number] += seat.take()
            if seat.finished:
                seat.release()
                del running[number]
    return found, core


@every_method
def test_one_sequence_has_the_tokens_and_counters_of_one_memory(name):
    core = engine(True)
    assert answers(core, name) == answers(engine(False), name)
    assert core.order.conflicts() == []


@every_method
def test_so_it_is_with_threads(name):
    threads = {"num_threads": 2, "backend": "cpu"}
    assert answers(engine(True, **threads), name) == answers(engine(False), name)


def test_three_seats_have_the_tokens_of_one_memory():
    names = list(POLICIES)
    found, core = crowd(True, names)
    assert found == crowd(False, names)[0]
    assert len(found) == 3 * len(names)
    assert all(found.values())
    assert core.order.conflicts() == []
    assert crowd(True, names, "cpu", num_threads=2)[0] == found


@every_method
def test_under_rejection_the_draft_sends_its_scores(name):
    """With two memories, `rejection` has the tokens and counters that it has with one. So have
    greedy requests, and requests with the usual rule. The mails carry the draft's scores, which the
    target needs."""
    core, rule = engine(True, rejection=True), {"rejection": True}
    found = answers(core, name, **rule)
    assert found == answers(engine(False, rejection=True), name, **rule)
    assert answers(core, name) == answers(engine(False), name)
    assert core.order.conflicts() == []
    drafts = NEEDED[name] - {"verdict"}
    assert any(kept["rollback_tokens"] for _, kept in found[1:]) or not drafts
    if drafts:
        last = "offer" if "offer" in drafts else "burst"  # the last mail of the draft in a round
        lost = core.order.conflicts(without=[last])
        assert any("draft_scores" in said for said in lost), lost


def test_three_seats_under_rejection():
    names, rule = list(POLICIES), {"rejection": True}
    found, core = crowd(True, names, rule=rule, rejection=True)
    assert found == crowd(False, names, rule=rule, rejection=True)[0]
    assert all(found.values())
    assert core.order.conflicts() == []
    assert crowd(True, names, "cpu", rule=rule, rejection=True, num_threads=2)[0] == found


@every_method
def test_each_mail_is_needed(name):
    core = engine(True)
    answers(core, name)
    for mail in MAILS.values():
        found = core.order.conflicts(without=[mail])
        assert any("no mail for" in said for said in found) == (mail in NEEDED[name]), (mail, found)


@every_method
def test_each_fence_is_needed(name):
    """Without one fence the checker reports conflicts, if the method needs that fence. The checker
    ignores the host's waits, as if all rounds were enqueued ahead."""
    core = engine(True)
    how = _core.Sampling(temperature=0.8, seed=1), _probe.policy(**POLICIES[name]), 40
    core.begin(PROMPT, *how)
    core.run()
    order = core.order
    assert order.conflicts(host=False) == []
    for fence in FENCES:
        mail = MAILS.get(fence, "verdict")
        found = order.conflicts(without=[fence], host=False)
        assert bool(found) == (mail in NEEDED[name]), (fence, found)


@every_method
def test_only_mail_crosses(name):
    """An op accesses only the memory of its lane. Only mail accesses both memories."""
    core = engine(True)
    answers(core, name)
    second = "in the second memory"
    for stream, what, reads, writes, _ in (op for op in core.order.ops() if len(op) == 5):
        if stream == "host":
            continue
        memories = {part.endswith(second) for part in [*reads, *writes]}
        assert len(memories) == (2 if what in MAILS.values() else 1), what
        assert what in MAILS.values() or memories == {stream == "draft"}, what


def test_without_a_draft_there_is_one_memory():
    core = _core.EngineCore(_core.Toy(vocab=32), None, backend="dry", draft_device=1, **SIZES)
    core.begin(PROMPT, _core.Sampling(), _core.Policy(), 8)
    assert len(core.run()) == 8
    assert not [op for op in core.order.ops() if "verdict" in op]
