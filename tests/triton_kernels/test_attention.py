"""Contract under test: branch_attention equals its twin, and the twin equals the CPU engine's
attention. Slots to which no row attends are never read. A row of a path or a tree has the same bits
as in plain decoding."""

import itertools

import pytest
import torch

from sbrt import _probe
from sbrt.triton_kernels import state
from sbrt.triton_kernels.attention import branch_attention
from sbrt.triton_kernels.attention_torch import branch_attention_torch
from sbrt.triton_kernels.packed import integer_rows
from sbrt.triton_kernels.plan import FAN, HEAD_DIMS, AttentionPlan, workspace
from sbrt.triton_kernels.round_rows import round_rows
from sbrt.triton_kernels.visible import see, see_torch

SMALL = {"heads": 4, "kv_heads": 2, "head_dim": 16, "capacity": 192, "dtype": torch.float32}
SMALL |= {"window": 128, "tail_slots": 8, "split": 64, "programs": 3}
# Tolerances against the twin. The float32 tolerance allows for the roundings of a sum of a few
# hundred terms. The 16-bit tolerances allow for rounded softmax weights.
ALLOWED = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def attend(s, op=branch_attention, look=see):
    work = look(s.table, s.plan, workspace(s.plan, s.q.device))
    out = op(s.q, s.k, s.v, plan=s.plan, work=work, out=s.out.clone())
    assert not work.counters.any(), "a counter was not set back"
    return out


def by_cpu(s):
    """Return the CPU engine's result. The CPU engine gets the same K and V, with NaN in slots to
    which no row attends."""
    q, k, v = (x.float().cpu().contiguous().numpy() for x in (s.q[: len(s.masks)], s.k, s.v))
    scale = s.plan.scale or s.plan.head_dim**-0.5
    table = s.table.cpu().numpy().tobytes()
    return torch.from_numpy(_probe.attend_probe(table, q, k[None], v[None], s.sizes(), scale))


def check(s, assert_close):
    twin = attend(s, branch_attention_torch, see_torch)
    assert_close(attend(s), twin, ALLOWED[s.plan.dtype])
    assert not twin[len(s.masks) :].any()
    if s.plan.dtype == torch.float32:
        assert_close(twin[: len(s.masks)].cpu(), by_cpu(s), 1e-5)


@pytest.mark.parametrize(
    ("rows", "shape"),
    [
        *itertools.product((1, 2, 7), ("path", "star", "tree", "tails")),
        *((33, "path"), (64, "tree")),
        *(pytest.param(*case, marks=pytest.mark.exact) for case in ((33, "tree"), (64, "path"))),
    ],
)
def test_equals_its_twin_and_the_cpu(scene, shapes, assert_close, device, rows, shape):
    plan = AttentionPlan(rows=rows, **SMALL | {"heads": 2, "kv_heads": 1})
    check(scene(plan, 150, shapes[shape](rows), device), assert_close)


@pytest.mark.exact
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 7, 33, 64])
def test_every_shape_equals_its_twin(scene, shapes, assert_close, device, rows, dtype):
    for shape, head in itertools.product(shapes, (0, 63, 197)):
        plan = AttentionPlan(rows=rows, **SMALL | {"dtype": dtype})
        check(scene(plan, head, shapes[shape](rows), device), assert_close)


MORE_HEADS = (pytest.param(head, marks=pytest.mark.exact) for head in (1, 65))


@pytest.mark.parametrize("head", [0, 63, 64, 127, *MORE_HEADS])
def test_short_trunks(scene, shapes, assert_close, device, head):
    for shape in ("path", "tree"):
        check(scene(AttentionPlan(rows=7, **SMALL), head, shapes[shape](7), device), assert_close)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "rows"), [(1, 1, 7), (8, 1, 3), (14, 2, 9), (7, 1, 20), (64, 1, 3)]
)
def test_groups_of_heads(scene, shapes, assert_close, device, heads, kv_heads, rows):
    plan = AttentionPlan(rows=rows, **SMALL | {"heads": heads, "kv_heads": kv_heads})
    check(scene(plan, 70, shapes["tree"](rows), device), assert_close)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes_and_widths(scene, shapes, assert_close, device, dtype, head_dim):
    plan = AttentionPlan(rows=5, **SMALL | {"head_dim": head_dim, "dtype": dtype})
    check(scene(plan, 100, shapes["tree"](5), device), assert_close)


def test_padding_and_rows_that_see_nothing(scene, assert_close, device):
    nothing = (0, 0, -1)
    plan = AttentionPlan(rows=8, **SMALL)
    s = scene(plan, 0, [nothing, (0b1, 0, -1), nothing], device)
    assert not attend(s)[[0, 2, 3, 4, 5, 6, 7]].any()
    check(s, assert_close)
    empty = scene(plan, 0, [], device)
    assert not attend(empty).any()


@pytest.mark.parametrize("window", [1, 5, 17])
def test_windows(scene, shapes, assert_close, device, window):
    for shape, head in itertools.product(("path", "tree", "tails"), (3, 150)):
        plan = AttentionPlan(rows=9, **SMALL | {"window": window, "capacity": window + 63})
        check(scene(plan, head, shapes[shape](9), device), assert_close)


def test_a_window_in_a_ring_that_holds_more(scene, shapes, assert_close, device):
    """A local layer of Gemma 3, whose scores also have a factor of their own."""
    sizes = SMALL | {"heads": 2, "kv_heads": 1, "window": 17, "capacity": 300, "scale": 0.15}
    for shape, head in (("tree", 3), ("tails", 150), ("path", 290)):
        check(scene(AttentionPlan(rows=9, **sizes), head, shapes[shape](9), device), assert_close)


@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rounded_results(scene, shapes, assert_close, device, dtype, head_dim):
    """A result rounded by attention must equal attention that round_rows rounds: the same integers
    in float32, where nothing else is rounded. In bfloat16 it is as close to the twin as a float
    result. A forward has one split, or several splits that are merged."""
    for head in (0, 40, 180):
        s = scene(
            AttentionPlan(rows=5, **SMALL | {"head_dim": head_dim, "dtype": dtype}),
            *(head, shapes["tree"](5), device),
        )
        columns = s.plan.heads * head_dim
        rounded, twin, later = (integer_rows(columns, device) for _ in range(3))
        for made, op, look in (
            (rounded, branch_attention, see),
            (twin, branch_attention_torch, see_torch),
        ):
            work = look(s.table, s.plan, workspace(s.plan, device))
            op(s.q, s.k, s.v, plan=s.plan, work=work, out=made)
            assert not work.counters.any()
        dense = rounded.dense(5, columns)
        step = rounded.scales[: columns // 32, :5].t().repeat_interleave(32, 1)
        assert ((dense - twin.dense(5, columns)).abs() <= step + ALLOWED[dtype]).all()
        if dtype == torch.float32:
            round_rows(attend(s).flatten(1)[:5], out=later)
            for name in ("q", "scales", "sums"):
                assert torch.equal(getattr(rounded, name), getattr(later, name)), name


def wraps(scene, shapes, assert_close, device, heads):
    for head in heads:
        plan = AttentionPlan(rows=4, **SMALL | {"window": 38, "capacity": 101})
        check(scene(plan, head, shapes["tree"](4), device), assert_close)


def test_wraps(scene, shapes, assert_close, device):
    wraps(scene, shapes, assert_close, device, range(60, 210, 37))


@pytest.mark.exact
def test_wraps_at_every_offset(scene, shapes, assert_close, device):
    wraps(scene, shapes, assert_close, device, range(0, 210))


def test_positions_beyond_32_bits(scene, shapes, assert_close, device):
    for head in (2**31 - 10, 2**32 - 10, 2**40 + 7):
        plan = AttentionPlan(rows=4, **SMALL)
        check(scene(plan, head, shapes["path"](4), device), assert_close)


@pytest.mark.parametrize(("short", "head"), [(1, 2**40 + 70), (1000, 4000)])
def test_many_splits_are_merged_by_a_tree(scene, shapes, assert_close, device, short, head):
    """The result must equal the twin's. 70 splits are merged in blocks of eight, and then in groups
    of blocks. An item of work is one split or a whole block."""
    sizes = SMALL | {"heads": 2, "kv_heads": 1, "capacity": 2304, "window": 2112, "split": 32}
    plan = AttentionPlan(rows=1, **sizes | {"programs": 2, "short": short})
    assert plan.levels == [10, 3]
    assert plan.max_short == min(short, plan.max_splits)
    check(scene(plan, head, shapes["path"](1), device), assert_close)


@pytest.mark.parametrize("capacity", [2112, 8256, 131_136])
def test_programs_at_work_do_not_depend_on_the_capacity(capacity):
    """At a context of 1k, 2k or 16k, an 8B model must have the same number of work items for any
    capacity of the ring.

    264 programs can run at the same time. The model's default max_model_len is 131,072.
    """
    plan = AttentionPlan(rows=16, heads=32, kv_heads=8, head_dim=128, capacity=capacity)
    for context, items in ((1024, 128), (2048, 256), (16_384, 256)):
        if context < capacity:
            splits = context // plan.split_length
            taken = 1 if splits <= plan.max_short else FAN
            assert plan.units * splits // taken == items


# ---- bits of a row


class Story:
    """Keys, values and queries of a token that depend only on the token and the tokens before it
    (its prefix). So a path has the same keys, values and queries as plain decoding."""

    def __init__(self, scene, plan, device):
        self.scene, self.plan, self.device = scene, plan, device
        self.kept = {}

    def of(self, prefix):
        """Return (q, k, v) of the last token of a prefix, each [heads or kv_heads, head_dim]."""
        if prefix not in self.kept:
            generator = torch.Generator().manual_seed(hash(prefix) % 2**31)
            p = self.plan
            self.kept[prefix] = [
                torch.randn(n, p.head_dim, generator=generator).to(p.dtype)
                for n in (p.heads, p.kv_heads, p.kv_heads)
            ]
        return self.kept[prefix]

    def rows(self, trunk, masks, first_row=0):
        """Return the attention outputs of the rows of a chain after the tokens `trunk`. Node i of
        the chain has token 100 + i."""
        s = self.scene(self.plan, len(trunk), masks, self.device)
        s.k.fill_(float("nan"))
        s.v.fill_(float("nan"))
        for i in range(len(trunk)):
            self._write(s, i % self.plan.capacity, trunk[: i + 1])
        for i, (chain, _, _) in enumerate(masks):
            path = tuple(100 + b for b in range(64) if chain >> b & 1)
            self._write(s, (len(trunk) + i) % self.plan.capacity, trunk + path)
            s.q[i] = self.of(trunk + path)[0].to(self.device)
        return attend(s)

    def _write(self, s, slot, prefix):
        _, k, v = self.of(prefix)
        s.k[:, slot], s.v[:, slot] = k.to(self.device), v.to(self.device)

    def plain(self, trunk, chain):
        """Return the attention output of plain decoding over the same tokens: one row after a
        longer trunk."""
        path = tuple(100 + b for b in range(64) if chain >> b & 1)
        whole = trunk + path
        s = self.scene(self.plan, len(whole) - 1, [(1, 0, -1)], self.device)
        for i in range(len(whole)):
            self._write(s, i % self.plan.capacity, whole[: i + 1])
        s.q[0] = self.of(whole)[0].to(self.device)
        return attend(s)[0]


def same_bits(scene, shapes, device, dtype, trunks, shape, rows=6, **sizes):
    sizes = SMALL | {"capacity": 300, "window": None, "split": 128, "dtype": dtype} | sizes
    for head in trunks:
        story = Story(scene, AttentionPlan(rows=rows, **sizes), device)
        trunk, masks = tuple(range(head)), shapes[shape](rows)
        got = story.rows(trunk, masks)
        for i, (chain, _, _) in enumerate(masks):
            want = story.plain(trunk, chain)
            assert torch.equal(got[i], want), f"head {head}, row {i}: {(got[i] - want).abs().max()}"


@pytest.mark.parametrize("shape", ["path", "tree"])
def test_a_row_has_the_bits_of_plain_decoding(scene, shapes, device, shape):
    same_bits(scene, shapes, device, torch.float32, (61, 125), shape)


@pytest.mark.parametrize("window", [None, 300])
def test_what_a_program_takes_changes_no_bit(scene, shapes, device, window):
    """The bits must be the same if an item of work is one split and if it is a block of eight
    splits. Rows cross the ends of splits, blocks and groups of blocks."""
    sizes = SMALL | {"heads": 2, "kv_heads": 1, "capacity": 700, "window": window, "split": 32}
    for head in (250, 530):
        s = scene(AttentionPlan(rows=5, **sizes), head, shapes["tree"](5), device)
        found = [attend(s.with_plan(short=short)) for short in (1, 1000)]
        assert torch.equal(*found), head
        assert found[0][:5].any()


def test_a_row_of_a_block_has_the_bits_of_plain_decoding(scene, shapes, device):
    """A row must have the bits of plain decoding. The forward uses blocks of splits. Plain
    decoding, over fewer keys, uses single splits."""
    sizes = {"heads": 2, "kv_heads": 1, "capacity": 400, "window": None, "split": 32, "short": 8}
    same_bits(scene, shapes, device, torch.float32, (253,), "path", rows=4, **sizes)


@pytest.mark.exact
@pytest.mark.parametrize("shape", ["path", "star", "tree"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_row_has_the_bits_of_plain_decoding(scene, shapes, device, dtype, shape):
    same_bits(scene, shapes, device, dtype, range(0, 140, 3), shape)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", ["path", "star", "tree"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_on_a_gpu_every_row_has_the_bits_of_plain_decoding(scene, shapes, dtype, shape):
    same_bits(scene, shapes, "cuda", dtype, range(0, 140, 3), shape, rows=16)


# ---- the output of `see`


@pytest.mark.parametrize("shape", ["path", "star", "tree", "tails"])
def test_see_writes_what_its_twin_writes(scene, shapes, device, shape):
    for rows, head, first_row in ((64, 1000, 0), (7, 0, 0), (33, 2**33, 5)):
        plan = AttentionPlan(rows=rows, **SMALL)
        s = scene(plan, head, shapes[shape](rows), device)
        made = [workspace(plan, device), workspace(plan, device)]
        see(s.table, plan, made[0], first_row=first_row)
        see_torch(s.table, plan, made[1], first_row=first_row)
        for name in ("slots", "firsts", "meta", "members", "items"):
            got, want = getattr(made[0], name), getattr(made[1], name)
            assert torch.equal(got, want), f"{name}: {(got != want).nonzero()[:5].tolist()}"


def test_a_path_has_one_leader_and_a_tree_one_a_leaf(scene, shapes, device):
    plan = AttentionPlan(rows=8, **SMALL)
    assert plan.tiles == 1
    for shape, leaves in (("path", 1), ("star", 7)):
        s = scene(plan, 50, shapes[shape](8), device)
        work = see(s.table, plan, workspace(plan, device))
        assert work.meta[3, 0] == leaves


def test_a_position_that_cannot_be_takes_no_more_than_the_workspace_holds(scene, shapes, device):
    plan = AttentionPlan(rows=3, **SMALL)
    s = scene(plan, 10_000, shapes["path"](3), device)
    s.table[state.offset(state.Batch, "row")] = 5
    made = [look(s.table, plan, workspace(plan, device)) for look in (see, see_torch)]
    assert torch.equal(made[0].members, made[1].members)
    assert made[0].members[3, 0] <= plan.max_splits
    branch_attention(s.q, s.k, s.v, plan=plan, work=made[0], out=s.out)


# ---- bad arguments


def call(op, **changes):
    plan = AttentionPlan(rows=2, **SMALL)
    given = {"q": torch.zeros(2, 4, 16), "k": torch.zeros(2, 224, 16), "v": torch.zeros(2, 224, 16)}
    given |= {"out": torch.zeros(2, 4, 16)} | changes
    work = workspace(plan, "cpu")
    op(given["q"], given["k"], given["v"], plan=plan, work=work, out=given["out"])


@pytest.mark.parametrize("op", [branch_attention, branch_attention_torch], ids=["kernel", "twin"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"q": torch.zeros(3, 4, 16)}, r"q.shape: expected \(2, 4, 16\) but got \(3, 4, 16\)"),
        ({"k": torch.zeros(2, 100, 16)}, "v.shape: expected"),
        ({"v": torch.zeros(2, 224, 16, dtype=torch.float16)}, "v.dtype: expected torch.float32"),
        ({"out": torch.zeros(2, 4, 32)[..., ::2]}, "out: expected a contiguous head but got"),
        ({"out": torch.zeros(2, 4, 16, device="meta")}, "out.device: expected cpu"),
        ({"out": integer_rows(64, "cpu")}, "out: expected heads of a multiple of 32 columns"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_bad_input_is_one_sentence(op, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(op, **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rows": 65}, "rows: expected a value from 1 to 64 but got 65"),
        ({"head_dim": 80}, "head_dim: expected one of"),
        ({"heads": 5}, "heads: expected a multiple of 2 but got 5"),
        ({"capacity": 63}, "capacity: expected a value from 64"),
        ({"window": 193}, "window: expected a value from 1 to 192 but got 193"),
        ({"split": 65}, "split: expected a multiple of 32 but got 65"),
        ({"dtype": torch.int32}, "dtype: expected one of"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_a_plan_that_cannot_be(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        AttentionPlan(**{"rows": 2, **SMALL, **changes})


def test_the_table_must_be_words(device):
    plan = AttentionPlan(rows=2, **SMALL)
    sentence = f"table: expected {state.size(state.Batch)} words but got 3"
    with pytest.raises(ValueError, match=sentence):
        see(torch.zeros(3, dtype=torch.int32), plan, workspace(plan, device))
