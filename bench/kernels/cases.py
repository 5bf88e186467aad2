"""The ops of sbrt.triton_kernels under load, each compared with its usual alternatives.

A case has our launch, baselines, the bytes that one launch must move, and a check. It has separate
data for many launches, so that the L2 cache is cold. A case whose results are wrong gets no
figures.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from sbrt.triton_kernels import state
from sbrt.triton_kernels.attention import branch_attention
from sbrt.triton_kernels.choose import choose
from sbrt.triton_kernels.choose_plan import ChoosePlan, choose_work
from sbrt.triton_kernels.gate import gate_mul
from sbrt.triton_kernels.linear import Terms, linear
from sbrt.triton_kernels.linear_plan import LinearPlan, linear_work
from sbrt.triton_kernels.norm import rms_norm, squares_torch
from sbrt.triton_kernels.plan import AttentionPlan, workspace
from sbrt.triton_kernels.rope import Rope, rope_kv_write
from sbrt.triton_kernels.settle import Settle, ring_settle
from sbrt.triton_kernels.visible import see

from ..gpu.timing import copies

DTYPE = torch.bfloat16


@dataclass
class Case:
    """One op at one shape. `launch` and each baseline take the index of the data set to use.

    check   returns the largest difference to a baseline, relative to max(1, value), and the allowed
            difference; None if only the tests check the results
    bytes   number of bytes that one launch must move
    limit   expected seconds, as a function of the read bandwidth (bytes per second)
    ratio   expected speedup over each named baseline
    """

    op: str
    shape: str
    bytes: int
    launches: int
    launch: Callable[[int], None]
    baselines: dict[str, Callable[[int], None]] = field(default_factory=dict)
    check: Callable[[], tuple[float, float]] | None = None
    limit: Callable[[float], float] | None = None
    ratio: dict[str, float] = field(default_factory=dict)


def cases(device: torch.device, only: str) -> Iterator[Case]:
    """Yield every case whose op's name contains `only`. A case is built only when the caller asks
    for it."""
    for op, make in MAKERS.items():
        if only in op:
            yield from make(device)


def path_table(head: int, rows: int, device: torch.device) -> torch.Tensor:
    """Return the row table of a root and a chain without siblings, `rows` rows in all, as int32
    words."""
    table = state.Batch(head=(head,), n=rows)
    for i in range(rows):
        row = table.row[i]
        row.position, row.slot, row.branch = head + i, head + i, -1
        row.chain = state.mask_of((1 << i + 1) - 1)
    return state.words(table, device)


def attention_cases(device: torch.device) -> Iterator[Case]:
    """Yield cases of attention over chains, in a target with 32 heads and 8 KV heads, head_dim
    128."""
    for rows, keys in ((1, 8192), (8, 2048), (16, 2048), (16, 8192), (16, 32768), (64, 8192)):
        yield _attention(device, rows, keys)


def _attention(device: torch.device, rows: int, keys: int) -> Case:
    plan = AttentionPlan(
        rows=rows, heads=32, kv_heads=8, head_dim=128, capacity=keys + 64, dtype=DTYPE
    )
    one = 2 * plan.kv_heads * plan.capacity * plan.head_dim * DTYPE.itemsize
    n = copies(one, device)
    kv = torch.randn(n, 2, plan.kv_heads, plan.capacity, plan.head_dim, device=device, dtype=DTYPE)
    q = torch.randn(rows, plan.heads, plan.head_dim, device=device, dtype=DTYPE)
    out = torch.empty_like(q)
    work = see(path_table(keys - rows, rows, device), plan, workspace(plan, device))
    sees = (
        torch.arange(keys, device=device)
        <= torch.arange(rows, device=device)[:, None] + keys - rows
    )
    made: dict[str, torch.Tensor] = {}

    def ours(i: int) -> None:
        branch_attention(q, kv[i, 0], kv[i, 1], plan=plan, work=work, out=out)

    def sdpa(i: int) -> None:
        k, v = (x[None, :, :keys] for x in kv[i])
        made["sdpa"] = functional.scaled_dot_product_attention(
            q.transpose(0, 1)[None], k, v, attn_mask=sees, enable_gqa=True
        )

    def check() -> tuple[float, float]:
        ours(0)
        sdpa(0)
        return _difference(out, made["sdpa"][0].transpose(0, 1)), 2e-2

    moved = 2 * plan.kv_heads * keys * plan.head_dim * DTYPE.itemsize * plan.tiles
    baselines = {"torch SDPA with a mask": sdpa, **_installed_attention(q, kv, keys)}
    return Case(
        *("branch_attention", f"{rows} rows x {keys} keys, 32/8 heads x 128", moved, n, ours),
        baselines,
        check,
        lambda bandwidth: moved / (0.85 * bandwidth) + 6e-6,
        {"torch SDPA with a mask": 2.0},
    )


def _installed_attention(
    q: torch.Tensor, kv: torch.Tensor, keys: int
) -> dict[str, Callable[[int], None]]:
    """Return the baselines flash_attn_with_kvcache and FlashInfer, if they are installed. They can
    attend along a path, but not in a tree."""
    found: dict[str, Callable[[int], None]] = {}
    if importlib.util.find_spec("flash_attn"):
        from flash_attn import flash_attn_with_kvcache

        def flash(i: int) -> None:
            k, v = (x.transpose(0, 1)[None, :keys] for x in kv[i])
            flash_attn_with_kvcache(q[None], k, v, causal=True)

        found["flash_attn_with_kvcache"] = flash
    if importlib.util.find_spec("flashinfer"):
        from flashinfer import single_prefill_with_kv_cache

        def infer(i: int) -> None:
            k, v = (x[:, :keys] for x in kv[i])
            single_prefill_with_kv_cache(q, k, v, causal=True, kv_layout="HND")

        found["FlashInfer"] = infer
    return found


def choose_cases(device: torch.device) -> Iterator[Case]:
    """Yield cases of the token choice for 1 or 16 rows, with a vocabulary of 128k tokens.

    The choice is greedy, sampled or filtered by top_p, or it gives a draft's distributions.
    """
    for rows, kind in (
        (16, "greedy"),
        (16, "sampled"),
        (1, "sampled"),
        (16, "top-p"),
        (16, "dists"),
    ):
        yield _choose(device, rows, kind)


def _choose(device: torch.device, rows: int, kind: str, vocab: int = 128_256) -> Case:
    block = state.Sequence(sharpness=1.0)
    block.sampling.temperature = 0.0 if kind == "greedy" else 0.8
    block.sampling.top_p = 0.9 if kind == "top-p" else 1.0
    plan = ChoosePlan(rows, vocab, dists=kind == "dists", filtered=kind == "top-p")
    words, table = state.words(block, device), path_table(0, rows, device)
    work = choose_work(plan, device)
    out = torch.empty(rows, plan.out_words, dtype=torch.int32, device=device)
    moved = rows * vocab * DTYPE.itemsize
    n = copies(moved, device)
    logits = torch.randn(n, rows, vocab, device=device, dtype=DTYPE) * 3
    made: dict[str, torch.Tensor] = {}

    def ours(i: int) -> None:
        choose(logits[i], words, table, plan=plan, work=work, out=out)

    def by_sort(i: int) -> None:
        x = logits[i].float()
        if kind == "greedy":
            made["token"] = x.argmax(-1)
            return
        best, ids = (x / 0.8).sort(-1, descending=True)
        p = best.softmax(-1)
        if kind == "top-p":
            p = p.masked_fill(p.cumsum(-1) - p > 0.9, 0.0)
        made["token"] = ids.gather(-1, (p / torch.empty_like(p).exponential_()).argmax(-1)[:, None])

    def check() -> tuple[float, float]:
        ours(0)
        by_sort(0)
        return float((out[:, 0] != made["token"]).any()), 0.0

    return Case(
        *("choose", f"{kind}, {rows} rows x {vocab}", moved, n, ours),
        {"torch argmax" if kind == "greedy" else "torch sort": by_sort},
        check if kind == "greedy" else None,
        (lambda bandwidth: 10e-6) if kind in ("greedy", "sampled") else None,
    )


def row_cases(device: torch.device) -> Iterator[Case]:
    """Yield cases of RMSNorm with the residual add, and of the MLP's gate: 16 rows, hidden size
    4096."""
    rows, hidden, inner, n = 16, 4096, 14336, 64
    x, residual = (torch.randn(n, rows, hidden, device=device, dtype=DTYPE) for _ in range(2))
    weight, out = torch.ones(hidden, device=device, dtype=DTYPE), torch.empty_like(x[0])
    made: dict[str, torch.Tensor] = {}

    def norm_torch(i: int) -> None:
        residual[i].add_(x[i])
        made["norm"] = functional.rms_norm(residual[i], (hidden,), weight, 1e-6)

    yield Case(
        *("rms_norm", f"{rows} x {hidden}, with residual", 4 * rows * hidden * 2, n),
        lambda i: _ignore(rms_norm(x[i], weight, eps=1e-6, out=out, residual=residual[i])),
        {"torch add, rms_norm": norm_torch},
    )
    both = torch.randn(n, rows, 2 * inner, device=device, dtype=DTYPE)
    gated = torch.empty(rows, inner, device=device, dtype=DTYPE)

    def gate_torch(i: int) -> None:
        made["gate"] = functional.silu(both[i, :, :inner]) * both[i, :, inner:]

    def check() -> tuple[float, float]:
        gate_mul(both[0], out=gated)
        gate_torch(0)
        return _difference(gated, made["gate"]), 2e-2

    yield Case(
        *("gate_mul", f"{rows} x {inner}", 3 * rows * inner * 2, n),
        lambda i: _ignore(gate_mul(both[i], out=gated)),
        {"torch silu, mul": gate_torch},
        check,
    )


def rope_cases(device: torch.device) -> Iterator[Case]:
    """Yield a case of rope and the KV write of 16 rows: 32 query heads, 8 KV heads, head_dim
    128."""
    rows, heads, kv_heads, d, n = 16, 32, 8, 128, 64
    qkv = torch.randn(n, rows, heads + 2 * kv_heads, d, device=device, dtype=DTYPE)
    kv = torch.zeros(2, kv_heads, 4096, d, device=device, dtype=DTYPE)
    inv_freq = 1 / 10000 ** (torch.arange(d // 2, device=device) * 2 / d)
    table, rope = path_table(1000, rows, device), Rope(inv_freq)
    position = torch.arange(1000, 1000 + rows, device=device)

    def by_torch(i: int) -> None:
        angle = (position[:, None] * inv_freq)[:, None]
        cosines, sines = (
            f(torch.cat([angle, angle], -1)).to(DTYPE) for f in (torch.cos, torch.sin)
        )
        x = qkv[i, :, : heads + kv_heads]
        a, b = x.chunk(2, -1)
        turned = x * cosines + torch.cat([-b, a], -1) * sines
        kv[0].index_copy_(1, position, turned[:, heads:].transpose(0, 1))
        kv[1].index_copy_(1, position, qkv[i, :, heads + kv_heads :].transpose(0, 1))

    yield Case(
        *("rope_kv_write", f"{rows} rows, {heads}/{kv_heads} heads x {d}"),
        rows * (2 * heads + 4 * kv_heads) * d * 2,
        n,
        lambda i: rope_kv_write(qkv[i], kv[0], kv[1], table, rope),
        {"torch": by_torch},
    )


def linear_cases(device: torch.device) -> Iterator[Case]:
    """Yield cases of products of 16 rows: with a layer's weights in a 1B and an 8B model, and with
    the LM head of the 1B model."""
    for name, n, k, how in (
        ("1B qkv", 3072, 2048, "norm"),
        ("1B o", 2048, 2048, "residual"),
        ("1B gate, up", 8192, 2048, "gate"),
        ("1B down", 2048, 8192, "residual"),
        ("1B head", 128_256, 2048, "norm"),
        ("8B qkv", 6144, 4096, "norm"),
        ("8B o", 4096, 4096, "residual"),
        ("8B gate, up", 14336, 4096, "gate"),
        ("8B down", 4096, 14336, "residual"),
    ):
        yield _linear(device, name, n, k, how)


def _linear(device: torch.device, name: str, n: int, k: int, how: str) -> Case:
    rows, gate, residual = 16, how == "gate", how == "residual"
    plan = LinearPlan(rows, n, k, dtype=DTYPE, norm=not residual, gate=gate, residual=residual)
    wide = 2 * n if gate else n
    count = copies(wide * k * DTYPE.itemsize, device)
    weight = torch.randn(count, wide, k, device=device, dtype=DTYPE) * k**-0.5
    x = torch.randn(rows, k, device=device, dtype=DTYPE)
    norm = torch.ones(k, device=device, dtype=DTYPE)
    h = torch.randn(rows, n, device=device, dtype=DTYPE)
    out, product = torch.empty_like(h), torch.empty(rows, wide, device=device, dtype=DTYPE)
    work = linear_work([plan], device)
    if plan.norm:
        work.squares[:, :rows] = squares_torch(x)
    terms = Terms(norm=norm if plan.norm else None, eps=1e-6, residual=h if residual else None)

    def ours(i: int) -> None:
        linear(x, weight[i], plan=plan, work=work, out=out, terms=terms)

    def check() -> tuple[float, float]:
        ours(0)
        given = functional.rms_norm(x.float(), (k,), eps=1e-6).to(DTYPE) if plan.norm else x
        want = (given.float() @ weight[0].float().t()).to(DTYPE).float()
        if gate:
            want = functional.silu(want[:, :n]).to(DTYPE) * want[:, n:]
        return _difference(out, want + h.float() if residual else want), 3e-2

    moved = (wide * k + rows * (k + n)) * DTYPE.itemsize
    return Case(
        *("linear", f"{name}, {how}, {rows} x {k} x {wide}", moved, count, ours),
        {"torch.matmul alone": lambda i: _ignore(torch.mm(x, weight[i].t(), out=product))},
        check,
        lambda bandwidth: moved / (0.8 * bandwidth) + 4e-6,
    )


def settle_cases(device: torch.device) -> Iterator[Case]:
    """Yield a case that moves the KV of an accepted tree path of 8 nodes: 32 layers, 8 KV heads,
    head_dim 128."""
    layers, kv_heads, capacity, d, depth = 32, 8, 4096, 128, 8
    kv = torch.randn(2, layers, kv_heads, capacity, d, device=device, dtype=DTYPE)
    block = state.Sequence(head=1000 + depth + 1)
    block.outcome.n, block.outcome.branch = depth, -1
    block.outcome.path[: depth + 1] = [0, *range(2, 2 * depth + 1, 2)]
    words = state.words(block, device)
    source = torch.arange(1002, 1002 + 2 * depth, 2, device=device)
    target = torch.arange(1001, 1001 + depth, device=device)
    yield Case(
        *("ring_settle", f"{depth} nodes, {layers} layers x {kv_heads} heads x {d}"),
        2 * 2 * layers * kv_heads * depth * d * 2,
        8,
        lambda i: ring_settle(words, kv, capacity=capacity, tail_slots=0, what=Settle.TARGET),
        {
            "torch gather, scatter": lambda i: _ignore(
                kv.index_copy_(3, target, kv[:, :, :, source])
            )
        },
    )


MAKERS: dict[str, Callable[[torch.device], Iterator[Case]]] = {
    "branch_attention": attention_cases,
    "choose": choose_cases,
    "linear": linear_cases,
    "rms_norm gate_mul": row_cases,
    "rope_kv_write": rope_cases,
    "ring_settle": settle_cases,
}


def _difference(got: torch.Tensor, want: torch.Tensor) -> float:
    got, want = got.float(), want.float()
    return float(((got - want).abs() / want.abs().clamp(min=1)).max())


def _ignore(_: object) -> None:
    """Discard a result, because a launch must return None."""
