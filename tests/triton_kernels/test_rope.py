"""Contract under test: rope_kv_write equals its twin and the CPU engine's rope. It writes only the
slots of the given rows."""

import pytest
import torch

from sbrt import _probe
from sbrt.triton_kernels import state
from sbrt.triton_kernels.rope import Rope, rope_kv_write, rope_kv_write_torch

CAPACITY = 80
ALLOWED = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3.2e-2}
DTYPES = (torch.float32, torch.float16) + ((torch.bfloat16,) if torch.cuda.is_available() else ())


def table_of(positions, slots, device, first_row=0):
    table = state.Batch(n=first_row + len(positions))
    for i, (position, slot) in enumerate(zip(positions, slots, strict=True)):
        table.row[first_row + i].position, table.row[first_row + i].slot = position, slot
    return state.words(table, device)


def inputs(rows, heads, kv_heads, head_dim, dtype, device):
    """Return random qkv, and KV storage that is all NaN. Both are views of wider buffers."""
    generator = torch.Generator().manual_seed(rows)
    qkv = torch.randn(rows, heads + 2 * kv_heads, head_dim + 8, generator=generator)
    qkv[..., head_dim:] = float("nan")
    kv = torch.full((2, CAPACITY, kv_heads, head_dim + 8), float("nan"))
    qkv, kv = qkv.to(device, dtype), kv.to(device, dtype)
    return qkv[..., :head_dim], kv.permute(0, 2, 1, 3)[..., :head_dim]


def rope_of(head_dim, dtype, device, norm):
    inv_freq = 1 / 10000 ** (torch.arange(head_dim // 2) * 2 / head_dim)
    weights = [torch.linspace(a, 2, head_dim).to(device, dtype) if norm else None for a in (-1, 0)]
    return Rope(inv_freq.to(device), 1.25, *weights)


def by_cpu(table, qkv, kv, rope):
    norms = [] if rope.q_weight is None else [rope.q_weight, rope.k_weight]
    norms = torch.stack(norms).float().cpu().numpy() if norms else torch.zeros(0).numpy()
    storage = [x.float().cpu().contiguous().numpy()[None] for x in kv]
    return [
        torch.from_numpy(x)
        for x in _probe.rope_probe(
            table.cpu().numpy().tobytes(),
            *(qkv.float().cpu().contiguous().numpy(), *storage, (CAPACITY, 17, 0, 0)),
            *(rope.inv_freq.cpu().numpy(), rope.amplitude, norms, rope.eps),
        )
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "head norm"])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 64), (7, 1, 128), (2, 2, 2)])
def test_equals_its_twin_and_the_cpu(device, assert_close, dtype, norm, heads, kv_heads, head_dim):
    positions = [0, 1, 77, 2**24 - 1, 2**24, 2**24 + 1, 2**31 + 5, 2**40 + 3, 5]
    slots = [3, 4, 77, 0, 79, 20, 21, 22, -1]
    rope = rope_of(head_dim, dtype, device, norm)
    table = table_of(positions, slots, device)
    made = []
    for op in (rope_kv_write, rope_kv_write_torch):
        qkv, kv = inputs(len(positions) + 2, heads, kv_heads, head_dim, dtype, device)
        given = qkv.clone()
        op(qkv, kv[0], kv[1], table, rope)
        made.append((qkv, kv))
        assert torch.equal(qkv[len(positions) :], given[len(positions) :]), "padding was touched"
        assert torch.equal(qkv[:, heads:], given[:, heads:])
        unwritten = [s for s in range(CAPACITY) if s not in slots]
        assert kv[:, :, unwritten].isnan().all()
        assert not kv[:, :, slots[:-1]].isnan().any()
    for kernel, twin in zip(*made, strict=True):
        assert_close(kernel, twin, ALLOWED[dtype])
    if dtype == torch.float32:
        qkv, kv = inputs(len(positions) + 2, heads, kv_heads, head_dim, dtype, device)
        q, k, v = by_cpu(table, qkv, kv, rope)
        assert_close(made[1][0][:, :heads].cpu(), q[:, :heads], 1e-5)
        assert_close(made[1][1].cpu(), torch.cat([k, v]), 1e-5)


def test_norms_of_heads_in_float32(device, assert_close):
    """As in Gemma 3, neither the weight nor the normalised head is rounded before their product."""
    rope = rope_of(64, torch.float32, device, True)
    table, made = table_of([0, 77], [3, 4], device), []
    for op in (rope_kv_write, rope_kv_write_torch):
        qkv, kv = inputs(2, 4, 2, 64, torch.float16, device)
        given = qkv[0].double()
        op(qkv, *kv, table, rope)
        made.append(qkv[:, :4])
    assert_close(*made, ALLOWED[torch.float16])
    scale = torch.rsqrt(given.square().mean(-1, keepdim=True) + rope.eps)
    want = (given * scale * rope.q_weight.double())[:4].half()  # position 0 is not rotated
    assert (made[0][0] == (want.float() * 1.25).half()).double().mean() > 0.99


def test_rows_of_a_table_from_the_middle(device):
    rope = rope_of(16, torch.float32, device, False)
    whole, part = (inputs(3, 2, 1, 16, torch.float32, device) for _ in range(2))
    rope_kv_write(whole[0], *whole[1], table_of([5, 6, 7], [1, 2, 3], device), rope)
    table = table_of([5, 6, 7], [1, 2, 3], device, first_row=9)
    rope_kv_write(part[0], *part[1], table, rope, first_row=9)
    assert torch.equal(whole[0], part[0])
    assert torch.equal(whole[1].nan_to_num(), part[1].nan_to_num())


def test_no_rows_is_no_launch(device):
    rope = rope_of(16, torch.float32, device, False)
    qkv, kv = inputs(0, 2, 1, 16, torch.float32, device)
    rope_kv_write(qkv, *kv, table_of([], [], device), rope)


@pytest.mark.parametrize("op", [rope_kv_write, rope_kv_write_torch], ids=["kernel", "twin"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"qkv": torch.ones(2, 4)}, "qkv, k: expected 3 dimensions"),
        ({"qkv": torch.ones(2, 2, 16)}, r"qkv.shape: expected \[rows, heads \+ 2 kv_heads"),
        ({"qkv": torch.ones(2, 4, 16, dtype=torch.int32)}, "qkv.dtype: expected one of"),
        ({"k": torch.ones(1, 80, 8)}, r"k.shape: expected \(1, 80, 16\)"),
        ({"v": torch.ones(1, 80, 16, dtype=torch.float16)}, "v: expected torch.float32"),
        ({"k": torch.ones(1, 80, 32)[..., ::2]}, "k: expected a contiguous head"),
        ({"rope": Rope(torch.ones(7))}, r"inv_freq: expected float32 \(8,\)"),
        ({"rope": Rope(torch.ones(8), 1.0, torch.ones(16))}, "rope: expected both head norm"),
        (
            {"table": torch.ones(5, dtype=torch.int32)},
            f"table: expected {state.size(state.Batch)} words",
        ),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_bad_input_is_one_sentence(op, changes, sentence):
    given = {"qkv": torch.ones(2, 4, 16), "k": torch.ones(1, 80, 16), "v": torch.ones(1, 80, 16)}
    given |= {"table": table_of([0], [0], "cpu"), "rope": Rope(torch.ones(8))} | changes
    with pytest.raises(ValueError, match=sentence):
        op(*(given[name] for name in ("qkv", "k", "v", "table", "rope")))
