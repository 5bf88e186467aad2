"""Contract under test: the logits and the K/V of a row have the same bits as if the row were
decoded alone."""

import numpy as np
import pytest

from sbrt import _core

ISAS = _core.instruction_sets()
STORAGES = [("float32", "float32"), ("bfloat16", "float32"), ("int8", "float32"), ("int8", "int8"),
            ("int4", "float32"), ("int4", "int8")]  # (weights, activations)  # fmt: skip
FAMILIES = {
    "Mistral": {"window": 24},
    "Qwen2": {"qkv_bias": True},
    "Qwen3": {"head_norms": True, "head_dim": 14},
    "Gemma 3": {
        "window": 24, "local": [True, False], "local_theta": 1e4, "rope_theta": 1e6, "gelu": True,
        "query_scalar": 7.0, "head_norms": True, "post_norms": True, "norm_offset": True,
        "scaled_embedding": True, "tied": True,
    },
    "Gemma 3, local layers alone": {
        "window": 24, "local": [True, True], "local_theta": 1e4, "gelu": True, "post_norms": True,
    },
    "all switches": {
        "qkv_bias": True, "o_bias": True, "mlp_bias": True, "head_norms": True, "window": 17,
        "rope": _core.RopeScaling(
            kind="yarn", factor=4.0, original_max=32.0, attention_factor=1.2
        ),
    },
}  # fmt: skip


def tokens_of(n, seed=0, vocab=67):
    return np.random.default_rng(seed).integers(0, vocab, n).tolist()


def same(given, expected, where):
    different = np.argwhere(given != expected)
    assert not len(different), f"{where}: {len(different)} differ, first at {different[0]}"


def random_tree(rng, n):
    """Return a random tree of n nodes: parents (parent[i] < i), depths, and chain masks of 64 bits.
    Node 0 is the root."""
    parent = [-1] + [int(rng.integers(max(0, i - 6), i)) for i in range(1, n)]
    depth, mask = [0] * n, [1] * n
    for i in range(1, n):
        depth[i] = depth[parent[i]] + 1
        mask[i] = mask[parent[i]] | 1 << i
    return parent, depth, mask


def path_to(parent, node):
    path = []
    while node >= 0:
        path.append(node)
        node = parent[node]
    return path[::-1]


@pytest.mark.parametrize(("storage", "activations"), STORAGES)
@pytest.mark.parametrize("isa", ISAS)
def test_a_path_of_any_length_from_any_head(tools, isa, storage, activations):
    decoder = tools.random_decoder(isa=isa, storage=storage, activations=activations)
    tokens = tokens_of(90)
    alone = tools.Sequence(decoder).alone(tokens)
    for n in range(1, 65):
        head, width = (n * 7) % (91 - n), n % 3 + 1
        lane = tools.Sequence(decoder, threads=3)
        if head:
            for at in range(0, head, 64):
                lane.chunk(tokens[at : min(at + 64, head)], width, logits=False)
        same(lane.chunk(tokens[head : head + n], width), alone[head : head + n], (n, head, width))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("isa", ISAS)
def test_families(tools, isa, family):
    """All rows must have the bits of rows that are decoded alone. The rows are paths, beyond the
    window and past the ring's end, then a tree."""
    decoder = tools.random_decoder(isa=isa, **FAMILIES[family])
    tokens = tokens_of(300)
    alone = tools.Sequence(decoder, max_len=400).alone(tokens)
    rng = np.random.default_rng(0)
    lane = tools.Sequence(decoder, max_len=400, threads=3, debug=True)
    while lane.head < 300:
        head, n = lane.head, int(rng.integers(1, 65))
        logits = lane.chunk(tokens[head : head + n], n % 3 + 1)
        same(logits, alone[head : head + n], (family, head, n))
    parent, depth, mask = random_tree(rng, 40)
    more = tokens_of(40, 1)
    rows = [lane.row(more[i], i, mask[i], depth[i]) for i in range(40)]
    logits = lane.probe.forward(lane.head, rows, 2)
    for leaf in (39, 21, 8):
        single = tools.Sequence(decoder, max_len=400)
        for at in range(0, 300, 60):
            single.chunk(tokens[at : at + 60])
        expected = single.alone([more[i] for i in path_to(parent, leaf)])
        same(logits[leaf], expected[-1], (family, leaf))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "sizes",
    [{"hidden": 64, "inner": 96}, {"hidden": 33, "inner": 7, "mlp_bias": True}, {"inner": 130},
     {"hidden": 130, "inner": 15, "qkv_bias": True, "head_norms": True},
     {"vocab": 2, "inner": 17}],
    ids=str,
)  # fmt: skip
def test_sizes_that_fill_no_panel(tools, isa, sizes):
    """All rows must have the bits of rows that are decoded alone: in every format, in forwards of 1
    to 64 rows, and with more threads than heads."""
    tokens = tokens_of(80, vocab=sizes.get("vocab", 67))
    for storage, activations in STORAGES:
        decoder = tools.random_decoder(isa=isa, storage=storage, activations=activations, **sizes)
        alone = tools.Sequence(decoder).alone(tokens)
        lane, parts = tools.Sequence(decoder, threads=9, debug=True), []
        for n, width in [(1, 2), (5, 9), (7, 3), (64, 2), (3, 1)]:
            parts.append(lane.chunk(tokens[lane.head : lane.head + n], width))
        same(np.concatenate(parts), alone, (storage, activations, sizes))


@pytest.mark.parametrize("group", [1, 2, 3, 7])
def test_many_query_heads_share_a_key_head(tools, group):
    """All rows must have the bits of rows that are decoded alone. The kernel processes query heads
    in blocks. Here, blocks end inside a row, and rows end inside a block."""
    decoder = tools.random_decoder(heads=2 * group, kv_heads=2, head_dim=16)
    tokens = tokens_of(70)
    alone = tools.Sequence(decoder).alone(tokens)
    for n in (2, 5, 13, 31):
        lane, parts = tools.Sequence(decoder, threads=3), []
        while lane.head < 70:
            parts.append(lane.chunk(tokens[lane.head : lane.head + n], n % 3 + 1))
        same(np.concatenate(parts), alone, (group, n))


@pytest.mark.parametrize("head_dim", [2, 16, 34, 64, 120])
def test_head_sizes(tools, head_dim):
    decoder = tools.random_decoder(head_dim=head_dim)
    tokens = tokens_of(50)
    alone = tools.Sequence(decoder).alone(tokens)
    lane = tools.Sequence(decoder, threads=2)
    parts = [lane.chunk(tokens[a:b], 2) for a, b in [(0, 1), (1, 8), (8, 41), (41, 50)]]
    same(np.concatenate(parts), alone, head_dim)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("isa", ISAS)
def test_random_trees(tools, isa, seed):
    rng = np.random.default_rng(seed)
    decoder = tools.random_decoder(isa=isa)
    n, trunk = int(rng.integers(2, 65)), tokens_of(int(rng.integers(0, 40)), seed)
    parent, depth, mask = random_tree(rng, n)
    tokens = tokens_of(n, seed + 100)
    order = rng.permutation(n)  # the rows of a forward may have any order
    lane = tools.Sequence(decoder, threads=3, debug=bool(seed % 2))
    lane.chunk(trunk)
    rows = [lane.row(tokens[i], int(i), mask[i], depth[i]) for i in order]
    logits = lane.probe.forward(lane.head, rows, seed % 3 + 1)
    for leaf in rng.choice(n, min(n, 8), replace=False):
        path = path_to(parent, int(leaf))
        alone = tools.Sequence(decoder)
        alone.chunk(trunk)
        expected = alone.alone([tokens[i] for i in path])
        same(logits[list(order).index(leaf)], expected[-1], (seed, leaf))
        at = lane.probe.slot(lane.head + int(leaf))
        end = alone.probe.slot(alone.head - 1)
        same(lane.probe.k(at), alone.probe.k(end), "k")
        same(lane.probe.v(at), alone.probe.v(end), "v")


@pytest.mark.parametrize("width", [1, 2, 3])
def test_tails_of_branches_on_any_node(tools, width):
    decoder = tools.random_decoder()
    trunk, chain = tokens_of(21), tokens_of(5, 1)
    lane = tools.Sequence(decoder, threads=3, branches=4, tail_slots=7, debug=True)
    lane.chunk(trunk, width)
    lane.chunk(chain, width)
    lane.head -= len(chain)  # the nodes of the chain are in flight again
    nodes, tails = [4, 4, 2, 0], [tokens_of(7, 10 + b) for b in range(4)]
    for j in range(7):
        rows = [
            (tails[b][j], lane.head + nodes[b] + 1 + j, lane.probe.tail(b, j), b,
             (2 << nodes[b]) - 1, (2 << j) - 1)
            for b in range(4)
        ]  # fmt: skip
        logits = lane.probe.forward(lane.head, rows, width)
        for b in range(4):
            alone = tools.Sequence(decoder)
            alone.chunk(trunk)
            expected = alone.alone(chain[: nodes[b] + 1] + tails[b][: j + 1])
            same(logits[b], expected[-1], (j, b))


@pytest.mark.parametrize("isa", ISAS)
def test_the_ring_wraps_anywhere(tools, isa):
    """All rows must have the bits of rows that are decoded alone. With a window of 24 the ring has
    88 slots, so 300 positions wrap three times."""
    decoder = tools.random_decoder(isa=isa)
    tokens = tokens_of(300)
    alone = tools.Sequence(decoder, max_len=24).alone(tokens)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        lane = tools.Sequence(decoder, max_len=24, threads=2, debug=True)
        while lane.head < 300:
            head, n = lane.head, int(rng.integers(1, 65))
            logits = lane.chunk(tokens[head : head + n], seed % 2 + 1)
            same(logits, alone[head : head + n], (seed, head, n))


def test_nobody_reads_what_no_row_sees(tools):
    decoder = tools.random_decoder()
    tokens = tokens_of(60)
    plain, poisoned = (
        tools.Sequence(decoder, threads=2, branches=2, tail_slots=4, debug=debug)
        for debug in (False, True)
    )
    for slot in range(poisoned.probe.slots):
        poisoned.probe.poison(slot)
    plain.chunk(tokens[:40])
    poisoned.chunk(tokens[:40])
    mask = 0b10101  # the row sees nodes 0, 2 and 4; nodes 1 and 3 are rejected siblings
    for lane in (plain, poisoned):
        lane.probe.forward(40, [lane.row(tokens[50], 0, 1), lane.row(tokens[52], 2, 5, 1)])
    for slot in set(range(poisoned.probe.slots)) - set(range(41)) - {42}:
        poisoned.probe.poison(slot)
    rows = [lane.row(tokens[54], 4, mask, 2) for lane in (plain, poisoned)]
    a, b = (lane.probe.forward(40, [r], 2) for lane, r in zip((plain, poisoned), rows, strict=True))
    assert np.isfinite(b).all()
    same(b, a, "poisoned")


def test_debug_rings_refuse_a_slot_that_holds_another_position(tools):
    lane = tools.Sequence(tools.random_decoder(), debug=True)
    lane.chunk(tokens_of(10))
    lane.probe.poison(lane.probe.slot(4))
    with pytest.raises(_core.EngineError, match=r"slot 4 holds position -1 .*expected 4"):
        lane.chunk([1])
    lane.probe.move(3, 4)
    with pytest.raises(_core.EngineError, match=r"slot 4 holds position 3 .*expected 4"):
        lane.chunk([1])


def test_padding_rows_write_nothing_and_a_blind_row_is_finite(tools):
    lane = tools.Sequence(tools.random_decoder(), debug=True)
    lane.chunk(tokens_of(9))
    before = [lane.probe.k(s) for s in range(lane.probe.slots)]
    real = lane.row(5, 0, 1)
    logits = lane.probe.forward(lane.head, [(-7, 3, -1, -1, 0, 0), real, (5, 0, -1, -1, 0, 0)])
    changed = [s for s in range(lane.probe.slots) if not np.array_equal(lane.probe.k(s), before[s])]
    assert changed == [lane.probe.slot(lane.head)]
    blind = tools.Sequence(tools.random_decoder()).probe.forward(0, [(5, 0, -1, -1, 0, 0)])
    assert np.isfinite(blind).all()
    same(logits[1], tools.Sequence(tools.random_decoder()).alone([*tokens_of(9), 5])[-1], "real")


def test_a_nan_reaches_the_rows_that_see_it_and_no_other(tools):
    """Softmax and gates must not hide a NaN, because sampling must see the NaN to report an
    error."""
    lane = tools.Sequence(tools.random_decoder(nan_token=13))
    tokens = [1, 2, 13, 4]
    rows = [lane.row(t, j, 0b1011 if j == 3 else (2 << j) - 1) for j, t in enumerate(tokens)]
    logits = lane.probe.forward(0, rows)
    assert np.isnan(logits[2]).all()
    assert np.isfinite(logits[[0, 1, 3]]).all()
    assert np.isnan(lane.probe.forward(0, [lane.row(4, 3, 0b1111)])).all()


def test_a_forward_without_logits_writes_the_same_keys(tools):
    decoder = tools.random_decoder(layers=3)
    lanes = [tools.Sequence(decoder) for _ in range(2)]
    for lane, logits in zip(lanes, (True, False), strict=True):
        lane.chunk(tokens_of(30), logits=logits)
    for slot in range(30):
        same(lanes[0].probe.k(slot), lanes[1].probe.k(slot), slot)
        same(lanes[0].probe.v(slot), lanes[1].probe.v(slot), slot)


def test_ops_allocate_nothing(tools):
    """A forward of 6 layers must not allocate more often than one of 1 layer. Then only the probe
    allocates, not the ops."""
    spent = []
    for layers in (1, 6):
        lane = tools.Sequence(tools.random_decoder(layers=layers), threads=2)
        lane.chunk(tokens_of(64), 2)
        before = _core.allocation_count()
        lane.chunk(tokens_of(20), 2)
        spent.append(_core.allocation_count() - before)
    assert spent[0] == spent[1]
