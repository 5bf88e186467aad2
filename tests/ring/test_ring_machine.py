"""Contract under test: a lane may use its ring in any order. Every row then reads the bytes that a
naive list cache holds. This includes the smallest capacity, W + S - 1 (window W, S in-flight
slots), and heads past 2^31 and 2^32. A mark whose window was overwritten is refused. Hypothesis
shrinks failures; fuzz_ring.cc runs more operations."""

from __future__ import annotations

import hashlib
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sbrt import EngineError, InvalidInputError, _probe

S = 64  # number of in-flight slots
BASES = (0, 2**31 - 10, 2**32 - 10)
SHAPES = st.fixed_dictionaries(
    {
        "window": st.integers(1, 6) | st.integers(1, 40),
        "branches": st.integers(1, 4),
        "tail_slots": st.integers(1, 8),
        "layers": st.integers(1, 2),
        "kv_heads": st.integers(1, 2),
        "head_dim": st.integers(1, 3),
        "debug": st.booleans(),
    }
)
PICK = st.integers(0, 2**16)  # random number; its remainder modulo the number of choices is used


class Lane(RuleBasedStateMachine):
    """A lane with one ring. In-flight node j is in slot head + j, and its position is head +
    level."""

    @initialize(shape=SHAPES, spare=st.just(0) | st.integers(0, 70), base=st.sampled_from(BASES))
    def start(self, shape, spare, base):
        self.window, self.debug = shape["window"], shape["debug"]
        self.capacity = self.window + S - 1 + spare
        with pytest.raises(InvalidInputError, match="C >= W"):
            _probe.RingProbe(capacity=self.window + S - 2, **shape)
        self.ring = _probe.RingProbe(capacity=self.capacity, **shape)
        self.base, self.touched, self.stamp = base, base - 1, 0
        self.trunk: list[bytes] = []  # the naive cache
        self.nodes: list[tuple[int, int, bytes]] = []  # (parent, level, content) of each node
        self.tails: list[tuple[int, list[bytes]]] = [(0, []) for _ in range(shape["branches"])]
        self.tail_slots = shape["tail_slots"]
        self.put_in_flight(-1)  # the root is an in-flight node

    @property
    def head(self) -> int:
        return self.base + len(self.trunk)

    # --- operations on slots, as a lane performs them ---

    def content(self) -> bytes:
        self.stamp += 1
        size = self.ring.slot_bytes
        return hashlib.shake_128(self.stamp.to_bytes(8, "little")).digest(size)

    def put_in_flight(self, parent: int) -> None:
        level = self.nodes[parent][1] + 1 if parent >= 0 else 0
        position = self.head + len(self.nodes)
        self.nodes.append((parent, level, self.content()))
        self.ring.write(self.ring.slot(position), self.head + level, self.nodes[-1][2])
        self.touched = max(self.touched, position)

    def poison(self, slot: int, position: int) -> None:
        """Drop a slot. A debug ring must then refuse to read the position from this slot."""
        self.ring.poison(slot)
        if self.debug:
            with pytest.raises(EngineError, match="ring: slot"):
                self.ring.read(slot, position)

    def leave_in_flight(self) -> None:
        for position in range(self.head + len(self.nodes), self.head + S):
            self.ring.poison(self.ring.slot(position))
        if self.debug:
            self.touched = max(self.touched, self.head + S - 1)
        for branch in range(len(self.tails)):
            self.drop(branch)

    # --- rules ---

    @rule(rows=st.integers(1, 6) | st.integers(1, S), seed=st.integers(-100, 100))
    def append(self, rows, seed):
        """Append nodes: a path, or a tree with random parents."""
        parents = Random(seed) if seed > 0 else None
        for _ in range(min(rows, S - len(self.nodes))):
            last = len(self.nodes) - 1
            self.put_in_flight(parents.randint(0, last) if parents else last)

    @rule(branch=PICK, node=PICK, grow=st.integers(1, 8))
    def fork(self, branch, node, grow):
        """Start the tail of a branch at a node, or add nodes to a tail."""
        branch %= len(self.tails)
        on, tail = self.tails[branch]
        on = on if tail else node % len(self.nodes)
        for j in range(len(tail), min(len(tail) + grow, self.tail_slots)):
            tail.append(self.content())
            position = self.head + self.nodes[on][1] + 1 + j
            self.ring.write(self.ring.tail(branch, j), position, tail[j])
        self.tails[branch] = on, tail

    @rule(branch=PICK)
    def drop(self, branch):
        branch %= len(self.tails)
        for j in range(len(self.tails[branch][1])):
            self.poison(self.ring.tail(branch, j), self.head)
        self.tails[branch] = 0, []

    @rule(node=PICK, adopt=st.booleans())
    def commit(self, node, adopt):
        """Accept the chain down to a node. The tail of a branch at this node may become the next
        chain."""
        node %= len(self.nodes)
        path = [node]
        while self.nodes[path[0]][0] >= 0:
            path.insert(0, self.nodes[path[0]][0])
        for depth, j in enumerate(path):
            self.ring.move(self.ring.slot(self.head + j), self.ring.slot(self.head + depth))
        hanging = [b for b, (on, tail) in enumerate(self.tails) if tail and on == node]
        self.trunk += [self.nodes[j][2] for j in path]
        self.nodes = []
        if adopt and hanging:
            for j, content in enumerate(self.tails[hanging[0]][1]):
                self.nodes.append((j - 1, j, content))
                self.ring.move(self.ring.tail(hanging[0], j), self.ring.slot(self.head + j))
                self.touched = max(self.touched, self.head + j)
        self.leave_in_flight()
        if not self.nodes:
            self.put_in_flight(-1)

    @precondition(lambda self: self.trunk)
    @rule(back=st.integers(1, 5) | st.integers(1, 120))
    def rollback(self, back):
        """Return to a mark: set head = mark. Do nothing if a slot in the mark's window has been
        overwritten."""
        mark = self.head - min(back, len(self.trunk))
        first = max(self.base, mark - self.window + 1)
        if first <= self.touched - self.capacity:
            if self.debug and first < mark:
                with pytest.raises(EngineError, match="ring: slot"):
                    self.ring.read(self.ring.slot(first), first)
            return
        del self.trunk[mark - self.base :]
        self.nodes = []
        self.leave_in_flight()
        self.put_in_flight(-1)

    # --- invariants, checked after each rule ---

    @invariant()
    def every_row_sees_its_window(self):
        """Check what the row of the last node and the last row of each tail read. Together these
        rows see all live slots."""
        self.check_row(len(self.nodes) - 1, None)
        for branch, (on, tail) in enumerate(self.tails):
            if tail:
                self.check_row(on, branch)

    def check_row(self, node: int, branch: int | None) -> None:
        tail = [] if branch is None else self.tails[branch][1]
        first = self.head + self.nodes[node][1] + len(tail) - self.window + 1
        for p in range(max(first, self.base), self.head):
            assert self.ring.read(self.ring.slot(p), p) == self.trunk[p - self.base]
        while node >= 0:
            parent, level, content = self.nodes[node]
            if self.head + level >= first:
                slot = self.ring.slot(self.head + node)
                assert self.ring.read(slot, self.head + level) == content
            node = parent
        begin = self.head + self.nodes[self.tails[branch or 0][0]][1] + 1
        for j, content in enumerate(tail):
            if begin + j >= first:
                assert self.ring.read(self.ring.tail(branch, j), begin + j) == content

    @invariant()
    def live_positions_never_share_a_slot(self):
        first = max(self.base, self.head - self.window + 1)
        live = [self.ring.slot(p) for p in range(first, self.head + len(self.nodes))]
        for branch, (_, tail) in enumerate(self.tails):
            live += [self.ring.tail(branch, j) for j in range(len(tail))]
        assert len(set(live)) == len(live)
        assert 0 <= min(live) <= max(live) < self.ring.slots


TestLane = Lane.TestCase
TestLane.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class ShortLane(Lane):
    """A lane whose rows look back one position further than the ring's window."""

    @initialize(window=st.integers(1, 6), base=st.sampled_from(BASES))
    def start(self, window, base):
        shape = {"window": window, "branches": 1, "tail_slots": 8, "debug": False}
        super().start(shape, 0, base)
        self.window += 1


def test_one_slot_below_the_bound_is_found():
    """With a ring that has one slot too few, the state machine must fail."""
    with pytest.raises(AssertionError):
        ShortLane.TestCase("runTest").runTest()


ShortLane.TestCase.settings = settings(TestLane.settings, phases=[Phase.generate])
