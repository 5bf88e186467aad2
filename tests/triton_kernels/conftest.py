"""Without a GPU the kernels run in Triton's interpreter (tests/conftest.py selects it)."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from sbrt.triton_kernels import state


@pytest.fixture(scope="session", autouse=True)
def _fixed_sums(fixed_sums):
    """Use `fixed_sums` in all tests here, because they compare bits of products."""


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def path(n):
    """Return (chain mask, tail mask, branch) for each row of a path of n nodes. Row 0 is the
    root."""
    return [((1 << i + 1) - 1, 0, -1) for i in range(n)]


def star(n):
    """Return (chain mask, tail mask, branch) for each row of a tree whose n - 1 leaves are children
    of the root."""
    return [(1 | 1 << i, 0, -1) for i in range(n)]


def tree(n, seed):
    """Return (chain mask, tail mask, branch) for each row of a random tree: the parent of each node
    is a random earlier node."""
    rng = random.Random(seed)
    chains = [1]
    for i in range(1, n):
        chains.append(chains[rng.randrange(i)] | 1 << i)
    return [(chain, 0, -1) for chain in chains]


def tails(n, seed, branches=4, tail_slots=8):
    """Return the words (chain mask, tail mask, branch) of at most n rows of a burst. The chain has
    no forks. Every branch continues one of its nodes, and the branch's tail is a tree."""
    rng = random.Random(seed)
    rows, grown = [], [[] for _ in range(branches)]
    at = [rng.randrange(1, 5) for _ in range(branches)]
    for i in range(n):
        b = i % branches
        if len(grown[b]) == tail_slots:
            continue
        before = rng.choice([0, *grown[b]])
        grown[b].append(before | 1 << len(grown[b]))
        rows.append(((1 << at[b]) - 1, grown[b][-1], b))
    return rows


SHAPES = {"path": path, "star": star, "tree": lambda n: tree(n, n), "tails": lambda n: tails(n, n)}


class Scene:
    """A row table, with queries, and K and V in a ring. Slots to which no row attends are NaN."""

    def __init__(self, plan, head, masks, device="cpu", seed=0, pad=3):
        self.plan, self.head, self.masks = plan, head, masks
        self.generator = torch.Generator().manual_seed(seed)
        self.table = self._table(head, masks, device)
        slots = plan.capacity + 4 * plan.tail_slots
        # The storage is slot-major and wider than a head. So its strides are not those of a
        # contiguous tensor.
        shape = (2, slots, plan.kv_heads, plan.head_dim + pad)
        values = torch.randn(shape, generator=self.generator)
        seen = torch.zeros(slots, dtype=torch.bool)
        seen[list(self.seen_slots())] = True
        values[:, ~seen] = float("nan")
        values[..., plan.head_dim :] = float("nan")
        values = values.to(device, plan.dtype)
        self.k, self.v = (x.permute(1, 0, 2)[..., : plan.head_dim] for x in values)
        q = torch.randn((plan.rows, plan.heads + 2, plan.head_dim), generator=self.generator)
        q[:, plan.heads :] = float("nan")
        q[len(masks) :] = float("nan")
        self.q = q.to(device, plan.dtype)[:, : plan.heads]
        self.out = torch.full((plan.rows, plan.heads + 1, plan.head_dim), 7.0)
        self.out = self.out.to(device, plan.dtype)[:, : plan.heads]

    def position(self, i):
        chain, tail, _ = self.masks[i]
        return self.head + chain.bit_count() + tail.bit_count() - 1

    def slots_of(self, i):
        """Return the slots of a row's keys by ascending position, computed without the code under
        test."""
        chain, tail, branch = self.masks[i]
        plan, first = self.plan, max(0, self.position(i) - self.plan.reach + 1)
        keys = [p % plan.capacity for p in range(first, self.head)]
        nodes = [(self.head + b) % plan.capacity for b in range(64) if chain >> b & 1]
        own = plan.capacity + branch * plan.tail_slots
        nodes += [own + b for b in range(64) if tail >> b & 1]
        return keys + nodes[max(0, first - self.head) :]

    def seen_slots(self):
        return {slot for i in range(len(self.masks)) for slot in self.slots_of(i)}

    def _table(self, head, masks, device):
        table = state.Batch(head=(head,), n=len(masks))
        for i, (chain, tail, branch) in enumerate(masks):
            row = table.row[i]
            row.position, row.slot, row.branch = self.position(i), -1, branch
            row.chain, row.tail = state.mask_of(chain), state.mask_of(tail)
        return state.words(table, device)

    def sizes(self):
        """Return the sizes of the plan in the form that the probes of the CPU engine expect."""
        return (self.plan.capacity, self.plan.reach, 4, self.plan.tail_slots)

    def with_plan(self, **changes):
        self.plan = replace(self.plan, **changes)
        return self


@pytest.fixture
def scene():
    return Scene


@pytest.fixture
def shapes():
    return SHAPES


def worst(got, want):
    """Return the largest error, relative to max(1, |want|), and its coordinates."""
    got, want = (np.asarray(x.detach().cpu().double()) for x in (got, want))
    error = np.abs(got - want) / np.maximum(1, np.abs(want))
    error[np.isnan(got) != np.isnan(want)] = np.inf
    error[np.isnan(got) & np.isnan(want)] = 0
    if error.size == 0:
        return 0.0, ()
    at = np.unravel_index(int(error.argmax()), error.shape)
    return float(error[at]), tuple(int(i) for i in at)


@pytest.fixture
def assert_close():
    def check(got, want, allowed):
        assert got.shape == want.shape
        error, at = worst(got, want)
        assert error <= allowed, f"worst at {at}: {got[at]} but expected {want[at]}"

    return check
