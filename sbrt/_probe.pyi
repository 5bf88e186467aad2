"""Single parts of the core, for tests and benches (csrc/probe). Only a checkout has this module."""

from collections.abc import Sequence
from typing import Any

from numpy import float32, float64
from numpy.typing import NDArray

from ._core import Model, Policy, Sampling

class Place:
    """A node's distributions p and q [vocab], which rejection updates (csrc/round/accept_op.h).

    The rule `rejection` updates them after every candidate (csrc/round/accept_op.h). Raises
    InvalidInputError if their sizes differ, or on a token that is not in them.
    """

    def __init__(self, p: NDArray[float64], q: NDArray[float64]) -> None: ...
    @property
    def p(self) -> NDArray[float64]:
        """The distribution from which the node's token must come, after the rejections so far,
        [vocab]; a copy."""
    @property
    def q(self) -> NDArray[float64]:
        """The distribution that the next candidate was drawn from, [vocab]; a copy."""
    def accepts(self, token: int, u: float) -> bool:
        """True if a drawn candidate is accepted: u q(token) < p(token), for random u in [0, 1)."""
    def reject(self, token: int) -> bool:
        """Update p and q after a drawn candidate is rejected.

        Returns False, and keeps p, if p - q is almost 0 everywhere.
        """
    def reject_known(self, token: int) -> bool:
        """Update p and q after the rejection of a candidate that was not drawn from q.

        Returns False, and keeps p, if p has no other token.
        """
    def draw(self, u: float) -> int:
        """Return the first token at which the cumulated sum of p exceeds u, in [0, 1), times its
        total."""

def softmax_of(scores: NDArray[float32], ids: Sequence[int], vocab: int) -> NDArray[float64]:
    """The softmax [vocab] of scores [n], as rejection computes it; score i is that of token ids[i].

    Without ids score i is that of token i. Raises InvalidInputError.
    """

class KernelBench:
    """Times every op of a model's forward, the sampling of tokens included."""

    def __init__(self, model: Model, max_len: int, max_rows: int, threads: int) -> None: ...
    def run(
        self, head: int, rows: int, width: int, times: int, temperature: float = 0.0
    ) -> list[dict[str, Any]]:
        """Time `times` forwards by `width` threads. Their `rows` rows are a path after `head`
        tokens.

        Returns a dict for each op, in order. Its keys: op (the name), shape, bytes (the fewest that
        must be moved), weights (bytes of weights among them), flops, integer (True for integer
        arithmetic). ns: a list of the op's times, one per forward, with the barrier after it.
        Raises InvalidInputError on sizes out of range.
        """

class LaneProbe:
    """One lane without an engine. A slot is an index into the storage of the KV cache: `slot` and
    `tail` return it."""

    def __init__(
        self,
        model: Model,
        max_len: int,
        max_rows: int,
        branches: int,
        tail_slots: int,
        threads: int,
        debug: bool = False,
    ) -> None: ...
    def forward(
        self,
        head: int,
        rows: Sequence[tuple[int, int, int, int, int, int]],
        width: int = 1,
        logits: bool = True,
    ) -> NDArray[float32] | None:
        """Run a forward. Each row is (token, position, slot, branch, chain mask, tail mask).

        Returns logits [rows, vocab]; None if `logits` is False.
        """

    def slot(self, position: int) -> int:
        """Storage slot of a position in the ring."""
    def tail(self, branch: int, j: int) -> int:
        """Storage slot of node `j` of a branch's tail."""
    def move(self, source: int, target: int) -> None:
        """Copy the keys and values of the slot `source` to the slot `target`."""
    def poison(self, slot: int) -> None:
        """Fill a slot with NaN."""
    def k(self, slot: int) -> NDArray[float32]:
        """Keys of a slot, [layers, kv_heads, head_dim]."""
    def v(self, slot: int) -> NDArray[float32]:
        """Values of a slot, [layers, kv_heads, head_dim]."""
    @property
    def slots(self) -> int:
        """Number of slots of the ring and all tails together."""

class ChooseBench:
    """Times the sampling of given logits [rows, vocab], without a forward."""

    def __init__(self, logits: NDArray[float32], threads: int) -> None: ...
    def run(self, sampling: Sampling, width: int, times: int) -> tuple[list[int], list[int]]:
        """Sample all rows `times` times with `width` threads.

        Returns the nanoseconds of each pass, and the token of each row.
        """

class Roofs:
    """The rates at which a team of threads on this machine can at most read and compute.

    isa: the instruction set that it uses.
    """

    def __init__(self, threads: int, isa: str = "auto") -> None: ...
    def read(self, bytes: int, times: int = 5) -> float:
        """Bytes per second when `bytes` bytes are read; the best of `times` passes."""
    def peak(self, steps: int = ..., times: int = 5) -> float:
        """Floating-point operations per second of fma in registers; the best of `times` passes."""
    def integers(self, steps: int = ..., times: int = 5) -> float:
        """Integer operations per second of dot products in registers; the best of `times`
        passes."""

def policy(
    gamma: int = 0,
    branches: int = 0,
    adaptive: bool = False,
    epsilon: float = 0.0,
    serial: bool = False,
    likely: bool = False,
    **fields: float,
) -> Policy:
    """Make a Policy from a few common settings.

    adaptive: RANK_ADAPTIVE. likely: RANK_LIKELY. serial: the gamma steps are a burst before every
    forward of the target, and each step adds `width` nodes. fields: further fields of Policy.
    """
