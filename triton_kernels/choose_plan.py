"""The constants of the sampling pass of one lane, and the memory that its kernels use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from .cut import CUT_WORDS
from .radix import CutWork, cut_work
from .state import Choice, Dist, size

# Number of picks per chunk, by plan.dists. A Choice needs one pick, a Dist needs CANDIDATES. The
# others are spare, because float32 scores may put near-ties in the wrong order.
PICKS = {False: 4, True: 20}
STATS = 6  # values per chunk in ChooseWork.stat


@dataclass(frozen=True)
class ChoosePlan:
    """Constants of a captured sampling pass.

    rows, vocab  shape of the logits; vocab is at most 2^20
    dists        write a Dist of the draft for each row, otherwise a Choice of the target
    shaped       some request changes its logits
    filtered     some request has min_p, top_k or top_p. A token is sampled from exactly the tokens
                 that the filters leave. With `dists`, a candidate is dropped only if the picks of
                 the chunks prove that a filter drops it. That changes no token, so it needs no
                 further pass over the vocabulary
    chunk        number of tokens that a program reads
    first_row    row of the row table to which row 0 of the logits belongs
    trimmed      the draft's LM head has only some tokens: `vocab` columns, one for each token
    keeps        some sequence may use rejection sampling (draw.py). Then a Dist is filtered exactly
    """

    rows: int
    vocab: int
    dists: bool = False
    shaped: bool = False
    filtered: bool = False
    chunk: int = 4096
    first_row: int = 0
    trimmed: bool = False
    keeps: bool = False

    def __post_init__(self) -> None:
        if self.trimmed and not self.dists:
            raise ValueError("trimmed: expected it of dists alone but got tokens")
        if self.rows < 1 or not 1 <= self.vocab <= 1 << 20:
            raise ValueError(
                f"plan: expected rows and a vocabulary of 1 to 2^20 but got {self.rows}, "
                f"{self.vocab}"
            )
        if self.chunk & (self.chunk - 1) or not 32 <= self.chunk <= 16384:
            raise ValueError(
                f"chunk: expected a power of two from 32 to 16384 but got {self.chunk}"
            )

    @property
    def cuts(self) -> bool:
        """True if the sampling pass runs `find_cut` first."""
        return self.filtered and (self.keeps or not self.dists)

    @property
    def splits(self) -> int:
        """Number of programs per row."""
        return triton.cdiv(self.vocab, self.chunk)

    @property
    def keep(self) -> int:
        """Number of picks that are kept per chunk."""
        return triton.next_power_of_2(PICKS[self.dists])

    @property
    def num_warps(self) -> int:
        """Number of warps per program."""
        return min(8, max(1, self.chunk // 512))

    def sizes(self) -> dict[str, object]:
        """Return the compile-time sizes that the kernels of a sampling pass share."""
        return {
            "CHUNK": self.chunk,
            "SPLITS": self.splits,
            "SPLITS_UP": triton.next_power_of_2(self.splits),
            "KEEP": self.keep,
        }

    @property
    def out_words(self) -> int:
        """Number of words in one row of the result."""
        return size(Dist if self.dists else Choice)


@dataclass(frozen=True)
class ChooseWork:
    """Device memory of one lane's sampling passes, allocated once.

    score    float64 [rows, splits, keep]  scores of each chunk's picks
    token    int32 [rows, splits, keep]    columns of these picks; -1: no pick
    stat     float32 [rows, splits, 6]     for each chunk: largest raw logit, sum of exponentials,
                                           their first moment; 1 if there is a NaN or +inf; largest
                                           shaped logit, sum of the weights of shaped logits
    counters int32 [rows]                  programs that arrived; 0 between launches
    cut      int32 [rows, 4]               result of find_cut. This tensor and the next five have no
                                           rows if the plan has `dists` without `keeps`
    cut_*                                  fields of the CutWork of find_cut
    blind    float32 [rows, splits, keep]  largest scores of each chunk, for `rate`; no rows unless
                                           the plan has `dists` and `keeps`
    shaped   float32 [rows, vocab]         result of shape_logits; empty unless the plan is shaped
    """

    score: torch.Tensor
    token: torch.Tensor
    stat: torch.Tensor
    counters: torch.Tensor
    cut: torch.Tensor
    cut_state: torch.Tensor
    cut_tokens: torch.Tensor
    cut_units: torch.Tensor
    cut_parts: torch.Tensor
    cut_counters: torch.Tensor
    blind: torch.Tensor
    shaped: torch.Tensor

    @property
    def of_cut(self) -> CutWork:
        """The memory of `find_cut`."""
        return CutWork(
            self.cut_state, self.cut_tokens, self.cut_units, self.cut_parts, self.cut_counters
        )


def choose_work(plan: ChoosePlan, device: str | torch.device) -> ChooseWork:
    """Allocate the memory for `plan` on `device`. Launches that may overlap need separate
    memory."""
    picks = (plan.rows, plan.splits, plan.keep)
    cut_rows = 0 if plan.dists and not plan.keeps else plan.rows
    blind_rows = plan.rows if plan.dists and plan.keeps else 0
    of_cut = cut_work(cut_rows, plan.splits, device)
    return ChooseWork(
        score=torch.empty(picks, dtype=torch.float64, device=device),
        token=torch.empty(picks, dtype=torch.int32, device=device),
        stat=torch.empty((plan.rows, plan.splits, STATS), device=device),
        counters=torch.zeros(plan.rows, dtype=torch.int32, device=device),
        cut=torch.zeros((cut_rows, CUT_WORDS), dtype=torch.int32, device=device),
        **{f"cut_{name}": tensor for name, tensor in vars(of_cut).items()},
        blind=torch.empty((blind_rows, *picks[1:]), device=device),
        shaped=torch.empty((plan.rows, plan.vocab if plan.shaped else 0), device=device),
    )
