"""Contract under test: rows of several seats. The bits of a row depend neither on the rows of other
seats nor on the number of its own seat. A row is sampled with the parameters of its own seat. The
memory of a seat that takes no part in a round does not change."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from sbrt.triton_kernels import state
from sbrt.triton_kernels.attention import branch_attention
from sbrt.triton_kernels.attention_torch import branch_attention_torch
from sbrt.triton_kernels.choose import choose, choose_torch
from sbrt.triton_kernels.choose_plan import ChoosePlan, choose_work
from sbrt.triton_kernels.plan import AttentionPlan, workspace
from sbrt.triton_kernels.settle import Seats, Settle, ring_settle, ring_settle_torch
from sbrt.triton_kernels.shaping import Shaping
from sbrt.triton_kernels.visible import see, see_torch
from tests.triton_kernels.choice import Case
from tests.triton_kernels.test_settle import CAPACITY, TAIL_SLOTS, random_block, same, storage
from tests.triton_kernels.test_settle import SLOTS as OWN_SLOTS

PLAN = AttentionPlan(
    rows=20, heads=4, kv_heads=2, head_dim=16, capacity=192, dtype=torch.float32, window=128,
    tail_slots=8, split=64, programs=3, seats=6, seat_slots=240,
)  # fmt: skip
# Rows of one seat, by name: (head, shape, number of rows).
MEMBERS = {
    "long": (150, "tree", 5), "new": (0, "path", 1), "tails": (70, "tails", 6),
    "far": (2**33, "path", 3), "leaves": (127, "star", 4),
}  # fmt: skip


class Crowd:
    """A row table of several seats, with K and V in their rings. Slots to which no row attends are
    NaN."""

    def __init__(self, scene, shapes, plan, seated, device):
        """seated: for each seat, the name of its rows in MEMBERS."""
        self.plan, self.rows = plan, {}
        one = replace(plan, seats=1, seat_slots=0)
        self.k, self.v = (
            torch.full((plan.kv_heads, plan.seats * plan.seat_slots, plan.head_dim), float("nan"))
            for _ in range(2)
        )
        self.q = torch.full((plan.rows, plan.heads, plan.head_dim), float("nan"))
        table = state.Batch()
        for seat, name in sorted(seated.items()):
            head, shape, count = MEMBERS[name]
            masks = shapes[shape](count)
            own = scene(one, head, masks, seed=list(MEMBERS).index(name))
            at = slice(seat * plan.seat_slots, seat * plan.seat_slots + own.k.shape[1])
            self.k[:, at], self.v[:, at] = own.k, own.v
            rows = range(table.n, table.n + len(masks))
            self.rows[name] = list(rows)
            self.q[rows.start : rows.stop] = own.q[: len(masks)]
            table.head[seat] = head
            given = state.struct(state.Batch, own.table)
            for i, row in enumerate(rows):
                table.row[row] = given.row[i]
                table.row[row].seat = seat
            table.n = rows.stop
        self.used = table.n
        self.table = state.words(table, device)
        self.q, self.k, self.v = (x.to(device) for x in (self.q, self.k, self.v))

    def attend(self, op=branch_attention, look=see):
        work = look(self.table, self.plan, workspace(self.plan, self.q.device))
        out = torch.full_like(self.q, 7.0)
        op(self.q, self.k, self.v, plan=self.plan, work=work, out=out)
        assert not work.counters.any(), "a counter was not set back"
        assert not out[self.used :].any()
        return {name: out[rows] for name, rows in self.rows.items()}


@pytest.fixture
def crowd(scene, shapes, device):
    return lambda seated, plan=PLAN: Crowd(scene, shapes, plan, seated, device)


SEATED = {0: "long", 2: "new", 3: "tails", 5: "far"}


def test_attention_of_many_seats_equals_its_twin(crowd, assert_close):
    made = crowd(SEATED)
    got, twin = made.attend(), made.attend(branch_attention_torch, see_torch)
    for name, rows in twin.items():
        assert rows.any()
        assert_close(got[name], rows, 1e-6)


@pytest.mark.parametrize("short", [None, 1])
def test_a_row_has_the_bits_that_it_has_alone(crowd, short):
    """A row must have the same bits in any seat and with any other rows, for both values of
    `short`."""
    plan = replace(PLAN, short=short)
    given = crowd(SEATED, plan).attend()
    for name in SEATED.values():
        want = crowd({1: name}, plan).attend()[name]
        assert torch.equal(given[name], want), name
    others = crowd({0: "tails", 1: "leaves", 4: "long"}, plan).attend()
    for name in ("tails", "long"):
        assert torch.equal(others[name], given[name]), name


@pytest.mark.parametrize("seated", [SEATED, {4: "leaves"}, {0: "new", 1: "tails", 5: "leaves"}])
def test_see_writes_what_its_twin_writes(crowd, device, seated):
    made = crowd(seated)
    for first_row in (0, 2):
        works = [
            look(made.table, PLAN, workspace(PLAN, device), first_row=first_row)
            for look in (see, see_torch)
        ]
        for name in ("slots", "firsts", "meta", "members", "items"):
            got, want = (getattr(work, name) for work in works)
            assert torch.equal(got, want), f"{name}: {(got != want).nonzero()[:5].tolist()}"


def test_sixty_four_seats_of_one_row(crowd, assert_close):
    plan = replace(PLAN, rows=64, seats=64, programs=7)
    made = crowd(dict.fromkeys(range(61), "new") | {63: "far"}, plan)
    got, twin = made.attend(), made.attend(branch_attention_torch, see_torch)
    for name in ("new", "far"):
        assert_close(got[name], twin[name], 1e-6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seats": 65}, "seats: expected a value from 1 to 64 but got 65"),
        ({"seat_slots": 191}, "seat_slots: expected a value from 192 to"),
        ({"seat_slots": 2**29}, "seat_slots: expected a value from 192 to 357913941 but got"),
    ],
    ids=["many", "small", "large"],
)
def test_seats_that_cannot_be(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(PLAN, **changes)


# ---- choices

CASES = [("greedy", False), ("filtered", True), ("plain", False), ("greedy", True), ("plain", True)]


def choices(cases, dists, op, device):
    """Sample all rows of all cases in one call. Each case has its own seat. Return the result words
    of each case."""
    table, rows = state.Batch(), 0
    for seat, case in enumerate(cases):
        table.head[seat] = case.table.head[0]
        for row in list(case.table.row)[: case.rows]:
            table.row[rows] = row
            table.row[rows].seat = seat
            rows += 1
    table.n = rows
    vocab = cases[0].vocab
    shaped, filtered = (
        any(case.shaping for case in cases),
        any(case.filtered for case in cases),
    )
    plan = ChoosePlan(rows, vocab, dists, shaped, filtered, 256)
    kinds = (torch.uint8, torch.float32, torch.int32, torch.uint8)
    # If a seat's request does not shape logits, its lists have values of an earlier request.
    lists = [
        case.shaping or Shaping(*(torch.full((1, vocab), 3, dtype=kind) for kind in kinds))
        for case in cases
    ]
    names = ("mask", "bias", "counts", "seen")
    dense = Shaping(*(torch.cat([getattr(one, n) for one in lists]).to(device) for n in names))
    out = torch.full((rows, plan.out_words), 77, dtype=torch.int32, device=device)
    sequences = torch.cat([state.words(case.block, device) for case in cases])
    logits = torch.from_numpy(np.concatenate([case.logits for case in cases])).to(device)
    with np.errstate(over="ignore"):  # the interpreter overflows for keys that no logit has
        op(
            logits, sequences, state.words(table, device), plan=plan,
            work=choose_work(plan, device), out=out, shaping=dense if shaped else None,
        )  # fmt: skip
    return out.split([case.rows for case in cases])


@pytest.mark.parametrize("op", [choose, choose_torch], ids=["kernel", "twin"])
@pytest.mark.parametrize("dists", [False, True], ids=["tokens", "dists"])
def test_a_row_is_sampled_as_its_own_seat_asks(device, op, dists):
    """Choices for the rows of a sequence must not depend on the other seats in the call, nor on
    the seat of the sequence."""
    cases = [
        Case(90 + i, 3, 300, kind=kind, shaped=shaped, device=device, heads=[2000 + i])
        for i, (kind, shaped) in enumerate(CASES)
    ]
    for seat, given in enumerate(choices(cases, dists, op, device)):
        [want] = choices([cases[seat]], dists, op, device)
        assert torch.equal(given, want), (seat, CASES[seat])
    swapped = choices(cases[::-1], dists, op, device)
    for given, want in zip(swapped[::-1], choices(cases, dists, op, device), strict=True):
        assert torch.equal(given, want)


# ---- moves

COUNT, SEAT_SLOTS = 4, -(-OWN_SLOTS // 16) * 16


def blocks(rng, what):
    """Return a sequence for each seat. For Settle.BURST, seats 1 and 2 have no burst to settle."""
    made = []
    for seat in range(COUNT):
        c = random_block(rng)
        c.policy.on_miss, c.policy.burst = 1, 4
        if what is Settle.BURST:
            c.outcome.branch, c.filled, c.draft_idle = (-1, seat == 2, seat == 1)
        made.append(c)
    return made


def settled(op, sequences, kv, what, members, device):
    """Run `op` for all seats in one call. Return the KV storage of each seat afterwards. members:
    the seats that take part in the round."""
    roll, ended = torch.zeros(8, dtype=torch.int64), 2**33 + 5
    roll[(ended + 1) % 8] = sum(1 << seat for seat in members)
    roll[ended % 8] = 0xF
    seats = Seats(
        COUNT, SEAT_SLOTS, roll.view(torch.int32).to(device),
        torch.tensor([ended]).view(torch.int32).to(device),
    )  # fmt: skip
    made = kv.clone(memory_format=torch.preserve_format)
    words = torch.cat([state.words(c, device) for c in sequences])
    op(words, made, capacity=CAPACITY, tail_slots=TAIL_SLOTS, what=what, poison=True, seats=seats)
    return [made[..., i * SEAT_SLOTS : i * SEAT_SLOTS + OWN_SLOTS, :] for i in range(COUNT)]


@pytest.mark.parametrize("op", [ring_settle, ring_settle_torch], ids=["kernel", "twin"])
@pytest.mark.parametrize("what", Settle)
def test_only_seats_that_take_part_are_settled(device, op, what):
    rng = random.Random(20 + what.value)
    sequences, members = blocks(rng, what), (0, 1, 2)
    each = [storage(1, 2, 8, device, seed=seat) for seat in range(COUNT)]
    kv = torch.full((2, 1, 2, COUNT * SEAT_SLOTS, 8), 5.0, device=device)
    for seat, own in enumerate(each):
        kv[..., seat * SEAT_SLOTS : seat * SEAT_SLOTS + OWN_SLOTS, :] = own
    given = settled(op, sequences, kv, what, members, device)
    for seat, own in enumerate(each):
        want = own.clone()
        awaits = what is not Settle.BURST or seat != 2  # seat 2 got its chain from a look-up
        if seat in members and awaits:
            op(
                state.words(sequences[seat], device), want, capacity=CAPACITY,
                tail_slots=TAIL_SLOTS, what=what, poison=True,
            )  # fmt: skip
            assert not same(want, own)
        assert same(given[seat], want), seat
