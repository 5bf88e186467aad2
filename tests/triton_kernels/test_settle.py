"""Contract under test: ring_settle moves the same KV as the CPU engine's settle, and writes NaN to
the same slots. It changes no other slot."""

import random

import pytest
import torch

from sbrt import _probe
from sbrt.triton_kernels import state
from sbrt.triton_kernels.settle import Settle, ring_settle, ring_settle_torch

CAPACITY, BRANCHES, TAIL_SLOTS = 90, 3, 20
SIZES = (CAPACITY, 20, BRANCHES, TAIL_SLOTS)
SLOTS = CAPACITY + BRANCHES * TAIL_SLOTS


def random_block(rng, head=None):
    """Return a sequence as `select` leaves it. It has an accepted path of a tree, and a next chain
    that is part of a tail."""
    c = state.Sequence()
    depth = rng.choice([0, 1, 3, 20])
    path = [0]
    for _ in range(depth):
        path.append(path[-1] + rng.choice([1, 1, 2, 3]))
    old_head = rng.choice([0, 1, 30, 80, 2**31 - 5, 2**33]) if head is None else head
    c.outcome.n, c.outcome.node, c.outcome.branch = depth, path[-1], rng.randrange(-1, BRANCHES)
    c.outcome.path[: depth + 1] = path
    c.head = old_head + depth + 1
    nodes = sorted(rng.sample(range(1, TAIL_SLOTS), rng.randrange(TAIL_SLOTS)))
    looked_up = rng.randrange(5)
    c.chain.size = len(nodes) + looked_up
    c.source[: c.chain.size + 1] = [0, *nodes, *[-1] * looked_up]
    for branch in c.branches[:BRANCHES]:
        branch.in_place = rng.random() < 0.3
        branch.has_dist[:] = [rng.random() < 0.8 for _ in range(state.MAX_TAIL)]
    c.draft_have = max(0, old_head - rng.choice([0, 0, 1]))
    c.draft_nodes = state.mask_of(rng.getrandbits(64) | 1)
    return c


def storage(layers, kv_heads, head_dim, device, seed=0):
    """Return K and V as a view of a wider buffer in slot-major order."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(2, layers, SLOTS, kv_heads, head_dim + 4, generator=generator)
    return wide.to(device).transpose(2, 3)[..., :head_dim]


def same(a, b):
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def check(c, what, poison, device, layers=2, kv_heads=2, head_dim=8):
    if what is Settle.BURST:  # a miss, under a policy that answers a miss with a serial burst
        c.policy.on_miss, c.policy.burst, c.outcome.branch = 1, 4, -1
    given = storage(layers, kv_heads, head_dim, device)
    before = [x.cpu().contiguous().numpy() for x in given]
    *cpu, after = _probe.settle_probe(bytes(c), *before, SIZES, what.value, poison)
    words = state.words(state.Sequence.from_buffer_copy(after), device)
    made = []
    for op in (ring_settle, ring_settle_torch):
        kv = given.clone(memory_format=torch.preserve_format)
        op(words, kv, capacity=CAPACITY, tail_slots=TAIL_SLOTS, what=what, poison=poison)
        made.append(kv)
    want = torch.stack([torch.from_numpy(x) for x in cpu]).to(device)
    assert same(made[1], want), f"twin: {(made[1] != want).nonzero()[:5].tolist()}"
    assert same(made[0], want), f"kernel: {(made[0] != want).nonzero()[:5].tolist()}"
    return made[0]


@pytest.mark.parametrize("what", Settle)
@pytest.mark.parametrize("poison", [False, True], ids=["", "poison"])
def test_equals_its_twin_and_the_cpu(device, what, poison):
    rng = random.Random(what.value)
    for _ in range(25):
        check(random_block(rng), what, poison, device, layers=1, kv_heads=1)


def test_every_layer_and_head(device):
    rng = random.Random(7)
    for layers, kv_heads, head_dim in ((3, 2, 8), (2, 3, 64), (1, 1, 80)):
        check(random_block(rng), Settle.DRAFT, True, device, layers, kv_heads, head_dim)


def wraps(device, heads):
    rng = random.Random(3)
    for head in heads:
        check(random_block(rng, head), Settle.DRAFT, False, device, 1, 1)


def test_wraps(device):
    wraps(device, range(60, 190, 9))


@pytest.mark.exact
def test_wraps_at_every_offset(device):
    wraps(device, [*range(0, 190)] * 5)


def test_the_longest_path_and_tail(device):
    """An accepted path of 30 of 61 nodes takes several groups of moves, whose slots overlap. The
    result must be that of the CPU engine."""
    c = state.Sequence(head=100 + 31)
    c.outcome.n, c.outcome.branch = 30, -1
    c.outcome.path[:31] = [0, *range(3, 63, 2)]
    check(c, Settle.TARGET, False, device, 1, 1)


def test_a_path_moves_nothing(device):
    c = state.Sequence(head=20)
    c.outcome.n, c.outcome.branch = 12, -1
    c.outcome.path[:13] = range(13)
    given = storage(1, 1, 8, device)
    assert same(check(c, Settle.TARGET, False, device, 1, 1), given)


@pytest.mark.parametrize("op", [ring_settle, ring_settle_torch], ids=["kernel", "twin"])
@pytest.mark.parametrize(
    ("kv", "capacity", "sentence"),
    [
        (torch.ones(2, 1, 1, 90), 90, r"kv: expected \[2, layers, kv_heads, slots, head_dim\]"),
        (torch.ones(2, 1, 1, 90, 16)[..., ::2], 90, "kv: expected .* stride"),
        (torch.ones(2, 1, 1, 90, 8), 91, "capacity: expected 64 to 90 slots but got 91"),
        (torch.ones(2, 1, 1, 90, 8), 63, "capacity: expected 64 to 90 slots but got 63"),
    ],
    ids=["shape", "stride", "large", "small"],
)
def test_bad_input_is_one_sentence(op, kv, capacity, sentence):
    words = state.words(state.Sequence())
    with pytest.raises(ValueError, match=sentence):
        op(words, kv, capacity=capacity, tail_slots=0, what=Settle.TARGET)
