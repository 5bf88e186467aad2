"""Contract under test: under rejection sampling, `choose` draws the same candidates as the CPU,
keeps the same scores bit by bit, and reports the same confidence. Rows of sequences without
rejection sampling are sampled as usual, and none of their scores are written."""

import numpy as np
import pytest
import torch

from sbrt.triton_kernels import state
from sbrt.triton_kernels.choose import choose, choose_torch
from sbrt.triton_kernels.choose_plan import ChoosePlan, choose_work
from sbrt.triton_kernels.draw import Scores
from tests.triton_kernels.choice import Case

TAIL_SLOTS = 7
SCORE_ROWS = state.SLOTS + state.MAX_TAIL + 9 * TAIL_SLOTS
UNWRITTEN = -77.0
OPS = pytest.mark.parametrize("op", [choose, choose_torch], ids=["kernel", "twin"])


class Draws(Case):
    """Rows of a sequence with rejection sampling. Each row has its own node: in the chain, in a
    certain branch, or in a tail. The last row belongs to a prompt."""

    def _attach(self):
        super()._attach()
        rng, c = self.rng, self.block
        c.policy.rejection, c.trunk_hash = 1, int(rng.integers(2**64, dtype=np.uint64))
        c.branches[3].in_place = 1
        for b in range(1, 9):
            c.branches[b].token[:] = [int(t) for t in rng.integers(self.vocab, size=64)]
        for i, row in enumerate(list(self.table.row)[: self.rows]):
            tail = state.mask_bits(row.tail).bit_count()
            row.branch, row.node = (1 + i % 8, tail - 1) if tail else (-1, i)
        self.table.row[self.rows - 1].node = -1

    def scores(self, dists):
        return np.full((1, SCORE_ROWS if dists else state.SLOTS, self.columns), UNWRITTEN, "f4")

    @property
    def columns(self):
        return self.logits.shape[1]

    def by_cpu(self, dists=False):
        kept, s = self.scores(dists), self.block.scores
        s.vocab, s.columns, s.tail_slots = self.vocab, self.columns, TAIL_SLOTS
        row = kept.strides[1]
        s.target = s.chain = kept.ctypes.data
        s.in_place = s.chain + state.SLOTS * row
        s.tails = s.in_place + state.MAX_TAIL * row
        return super().by_cpu(dists), kept

    def by(self, op, dists=False, chunk=256):
        plan = ChoosePlan(
            self.rows, self.columns, dists, self.shaping is not None, self.filtered, chunk,
            trimmed=len(self.ids) > 0, keeps=True,
        )  # fmt: skip
        out = torch.full((self.rows, plan.out_words), 77, dtype=torch.int32, device=self.device)
        kept = torch.from_numpy(self.scores(dists)).to(self.device)
        ids = torch.tensor(self.ids, dtype=torch.int32, device=self.device) if self.ids else None
        words = (state.words(self.block, self.device), state.words(self.table, self.device))
        with np.errstate(over="ignore"):
            op(
                torch.from_numpy(self.logits).to(self.device), *words, plan=plan,
                work=choose_work(plan, self.device), out=out, shaping=self.shaping, ids=ids,
                scores=Scores(kept, TAIL_SLOTS if dists else 0),
            )  # fmt: skip
        kind = (state.Dist if dists else state.Choice) * self.rows
        return list(kind.from_buffer_copy(out.cpu().numpy().tobytes())), kept.cpu().numpy()


KINDS = [("plain", False), ("filtered", False), ("filtered", True)]


@pytest.mark.parametrize(("kind", "shaped"), KINDS)
@OPS
def test_a_target_keeps_the_scores_of_the_cpu(device, op, kind, shaped):
    case = Draws(11, 7, 595, kind=kind, shaped=shaped, device=device)
    case.table.row[6].node = 6  # a target samples no rows of prompts here
    (want, scores), (got, kept) = case.by_cpu(), case.by(op)
    assert [(c.token, c.error) for c in got] == [(c.token, c.error) for c in want]
    fine = [i for i in range(7) if want[i].error == 0]
    nodes = [case.table.row[i].node for i in fine]
    assert len(fine) > 3
    assert (kept[0, nodes] == scores[0, nodes]).all()


@pytest.mark.parametrize("trims", [False, True], ids=["all tokens", "some tokens"])
@pytest.mark.parametrize(("kind", "shaped"), KINDS)
@OPS
def test_a_draft_draws_what_the_cpu_draws(device, op, kind, shaped, trims):
    drawn = 0
    for seed in (40, 41):
        case = Draws(seed, 7, 300, kind=kind, shaped=shaped, device=device, heads=[77])
        if trims:
            case.trim()
        (want, scores), (got, kept) = case.by_cpu(dists=True), case.by(op, dists=True)
        assert want[-1].n == 0  # the last row belongs to a prompt
        for i, (here, there) in enumerate(zip(got, want, strict=True)):
            n = there.n
            assert (here.n, here.token[:n]) == (n, there.token[:n]), i
            if n:
                found = np.array([here.q, here.entropy, *here.lp[:n]])
                expected = np.array([there.q, there.entropy, *there.lp[:n]])
                assert np.abs(found - expected).max() < 2e-5 * max(1, np.abs(expected).max()), i
            drawn += n
        written = (scores[0] != UNWRITTEN).any(1)  # a row that fails may be written in part
        assert (kept[0, written] == scores[0, written]).all()
        assert written.sum() <= (kept[0] != UNWRITTEN).any(1).sum() < case.rows
    assert drawn > 30


@OPS
def test_sequences_that_accept_otherwise_keep_nothing(device, op):
    case = Draws(12, 5, 300, kind="plain", device=device)
    case.block.policy.rejection = 0
    want = Case.by(case, op, dists=True)[0]
    got, kept = case.by(op, dists=True)
    assert [bytes(dist) for dist in got] == [bytes(dist) for dist in want]
    assert (kept == UNWRITTEN).all()


@OPS
@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (None, "scores: expected them with plan.keeps alone, which is True"),
        (torch.zeros(1, 64, 41), r"scores: expected contiguous float32 \[seats, rows, 40\]"),
    ],
)
def test_bad_scores_are_one_sentence(op, scores, said):
    plan = ChoosePlan(2, 40, chunk=32, keeps=True)
    words = (state.words(state.Sequence()), state.words(state.Batch()))
    out = torch.zeros(2, 2, dtype=torch.int32)
    given = scores if scores is None else Scores(scores)
    with pytest.raises(ValueError, match=said):
        op(
            torch.zeros(2, 40), *words, plan=plan, work=choose_work(plan, "cpu"), out=out,
            scores=given,
        )  # fmt: skip
