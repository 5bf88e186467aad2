"""Contract under test: every op can be captured in a CUDA graph once, and replayed for any later
state. An op reads all state from device memory and allocates nothing. A replay must give the same
result as a direct call."""

import pytest
import torch

from sbrt.triton_kernels import state
from sbrt.triton_kernels.attention import branch_attention
from sbrt.triton_kernels.choose import choose
from sbrt.triton_kernels.choose_plan import ChoosePlan, choose_work
from sbrt.triton_kernels.gate import gate_mul
from sbrt.triton_kernels.linear import Terms, linear
from sbrt.triton_kernels.linear_plan import LinearPlan, linear_work
from sbrt.triton_kernels.norm import rms_norm
from sbrt.triton_kernels.plan import AttentionPlan, workspace
from sbrt.triton_kernels.rope import Rope, rope_kv_write
from sbrt.triton_kernels.settle import Settle, ring_settle
from sbrt.triton_kernels.visible import see

pytestmark = pytest.mark.gpu
ROWS, HEADS, KV_HEADS, D, CAPACITY, VOCAB = 8, 8, 2, 128, 1088, 5000


class Step:
    """All ops of a forward, each with its own buffers."""

    def __init__(self, filtered):
        self.plan = AttentionPlan(
            rows=ROWS, heads=HEADS, kv_heads=KV_HEADS, head_dim=D, capacity=CAPACITY, split=256
        )
        self.work = workspace(self.plan, "cuda")
        self.chosen = ChoosePlan(ROWS, VOCAB, filtered=filtered)
        self.choose_work = choose_work(self.chosen, "cuda")
        self.sequence = torch.zeros(state.size(state.Sequence), dtype=torch.int32, device="cuda")
        self.table = torch.zeros(state.size(state.Batch), dtype=torch.int32, device="cuda")
        half = {"device": "cuda", "dtype": torch.bfloat16}
        generator = torch.Generator("cuda").manual_seed(0)
        self.qkv = torch.randn(ROWS, HEADS + 2 * KV_HEADS, D, generator=generator, **half)
        self.kv = torch.randn(2, 1, KV_HEADS, CAPACITY, D, generator=generator, **half)
        self.x = torch.randn(ROWS, 2 * 512, generator=generator, **half)
        self.logits = torch.randn(ROWS, VOCAB, generator=generator, **half) * 3
        self.weight = torch.ones(512, **half)
        self.rope = Rope(1 / 10000 ** (torch.arange(D // 2, device="cuda") * 2 / D))
        self.q = torch.empty(ROWS, HEADS + 2 * KV_HEADS, D, **half)
        self.out = torch.empty(ROWS, HEADS, D, **half)
        self.gated, self.normed = (torch.empty(ROWS, 512, **half) for _ in range(2))
        self.product = LinearPlan(ROWS, 512, 512, residual=True)
        self.linear_work = linear_work([self.product], "cuda")
        self.square = torch.randn(512, 512, generator=generator, **half)
        self.summed = torch.empty(ROWS, 512, **half)
        self.choice = torch.zeros(ROWS, 2, dtype=torch.int32, device="cuda")

    def set(self, head, chain):
        """Write the state of a round to device memory, as the host or `select` would do."""
        block = state.Sequence(head=head)
        block.sampling.temperature, block.sampling.top_p, block.sampling.seed = 0.7, 0.8, head
        block.outcome.n, block.outcome.branch = min(3, head - 1), -1
        block.outcome.path[:4] = [0, 2, 3, 5]
        rows = state.Batch(head=(head,), n=chain + 1)
        for i in range(chain + 1):
            row = rows.row[i]
            row.position, row.slot = head + i, (head + i) % CAPACITY
            row.chain = state.mask_of((1 << i + 1) - 1)
        self.sequence.copy_(state.words(block))
        self.table.copy_(state.words(rows))

    def run(self):
        k, v = self.kv[0, 0], self.kv[1, 0]
        ring_settle(self.sequence, self.kv, capacity=CAPACITY, tail_slots=0, what=Settle.TARGET)
        see(self.table, self.plan, self.work)
        self.q.copy_(self.qkv)
        rope_kv_write(self.q, k, v, self.table, self.rope)
        branch_attention(self.q[:, :HEADS], k, v, plan=self.plan, work=self.work, out=self.out)
        gate_mul(self.x, out=self.gated)
        rms_norm(self.gated, self.weight, eps=1e-6, out=self.normed)
        linear(
            self.normed, self.square, plan=self.product, work=self.linear_work, out=self.summed,
            terms=Terms(residual=self.gated),
        )  # fmt: skip
        choose(
            self.logits, self.sequence, self.table,
            plan=self.chosen, work=self.choose_work, out=self.choice,
        )  # fmt: skip
        return [x.clone() for x in (self.kv, self.out, self.summed, self.choice)]


@pytest.mark.parametrize("filtered", [False, True], ids=["plain", "filtered"])
def test_replays_equal_the_ops_by_themselves(filtered):
    eager, captured = Step(filtered), Step(filtered)
    for step in (eager, captured):
        step.set(10, 2)
        step.run()
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    captured.kv.copy_(eager.kv)
    with torch.cuda.graph(graph, stream=stream):
        made = captured.run()
    captured.kv.copy_(eager.kv)
    for head, chain in ((10, 7), (63, 0), (255, 7), (256, 3), (1080, 7), (2**31 + 7, 4)):
        for step in (eager, captured):
            step.set(head, chain)
        want = eager.run()
        graph.replay()
        torch.cuda.synchronize()
        for name, a, b in zip(("kv", "out", "summed", "choice"), made, want, strict=True):
            assert torch.equal(a[: chain + 1] if name != "kv" else a,
                               b[: chain + 1] if name != "kv" else b), (head, name)  # fmt: skip


def test_a_step_allocates_nothing():
    step = Step(True)
    step.set(100, 7)
    step.run()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    see(step.table, step.plan, step.work)
    rope_kv_write(step.q, step.kv[0, 0], step.kv[1, 0], step.table, step.rope)
    ring_settle(step.sequence, step.kv, capacity=CAPACITY, tail_slots=0, what=Settle.TARGET)
    branch_attention(
        step.q[:, :HEADS], step.kv[0, 0], step.kv[1, 0],
        plan=step.plan, work=step.work, out=step.out,
    )  # fmt: skip
    choose(step.logits, step.sequence, step.table, plan=step.chosen, work=step.choose_work,
           out=step.choice)  # fmt: skip
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
