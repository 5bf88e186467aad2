"""Records the op that chooses tokens after a forward, for a lane that no engine runs."""

from __future__ import annotations

import torch

from sbrt.gpu.lane import GpuLane
from sbrt.gpu.ops import Run
from sbrt.gpu.recorder import Piece
from sbrt.triton_kernels import state
from sbrt.triton_kernels.choose_plan import ChoosePlan


def record_choice(
    lane: GpuLane, table: torch.Tensor, rows: int
) -> tuple[Piece, tuple[torch.Tensor, ...]]:
    """Record the op that chooses a token for each of `rows` rows from the lane's logits.

    The choice is greedy and unfiltered. If the lane is a draft's, the op writes each row's
    distribution and no token. table: a Batch as int32 words. Returns the recorded op, and the
    tensors that must live as long as the op.
    """
    columns, device = lane.vocab, table.device
    plan = ChoosePlan(rows, columns, lane.shape.is_draft)
    sequence = torch.zeros(state.size(state.Sequence), dtype=torch.int32, device=device)
    out = torch.zeros((rows, plan.out_words), dtype=torch.int32, device=device)
    logits, work = lane.buffers.logits[:rows, :columns], lane.choice_work(plan)

    def choose(run: Run) -> None:
        run(lane.ops.choose, logits, sequence, table, plan=plan, work=work, out=out)

    return lane.recorder.record(choose, rows), (sequence, out)
