"""Single parts of the core, for the tests and benches of a checkout (csrc/probe)."""

from collections.abc import Sequence
from typing import Any

from numpy import float32, float64
from numpy.typing import NDArray

from ._core import Model, Policy, Sampling

class Place:
    """A node's distributions p and q [vocab], which rejection updates (csrc/round/accept_op.h).

    Raises InvalidInputError on distributions of different sizes, or an unknown token.
    """

    def __init__(self, p: NDArray[float64], q: NDArray[float64]) -> None: ...
    @property
    def p(self) -> NDArray[float64]:
        """The distribution of the token, [vocab]; a copy."""
    @property
    def q(self) -> NDArray[float64]:
        """The distribution that the next candidate was drawn from, [vocab]; a copy."""
    def stands(self, token: int, u: float) -> bool:
        """True if a drawn candidate is accepted, given a coin u in [0, 1)."""
    def reject(self, token: int) -> bool:
        """Update p after a drawn candidate is rejected; False if nothing of p is left."""
    def reject_known(self, token: int) -> bool:
        """Update p after a candidate that was not drawn is rejected."""
    def draw(self, u: float) -> int:
        """The token of p at u in [0, 1)."""

def softmax_of(scores: NDArray[float32], ids: Sequence[int], vocab: int) -> NDArray[float64]:
    """The softmax [vocab] of scores [n], as rejection computes it; score i is that of token ids[i].

    Without ids score i is that of token i. Raises InvalidInputError.
    """

class KernelBench:
    """Times every op inside a model's forward, with the choice of tokens."""

    def __init__(self, model: Model, max_len: int, max_rows: int, threads: int) -> None: ...
    def run(
        self, head: int, rows: int, width: int, times: int, temperature: float = 0.0
    ) -> list[dict[str, Any]]:
        """`rows` rows of one path after `head` tokens, `times` forwards by `width` threads.

        Per op in order: op, shape, bytes (moved at least), weights (bytes of them), flops, ns (of
        each forward, with the barrier after the op). Raises InvalidInputError.
        """

class LaneProbe:
    """One lane alone. Slots are storage slots: `slot` and `tail` return them."""

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
        """Run a forward. rows: (token, position, slot, branch, chain mask, tail mask) each.

        Returns logits [rows, vocab], or None without logits.
        """

    def slot(self, position: int) -> int:
        """Storage slot of a position in the ring."""
    def tail(self, branch: int, j: int) -> int:
        """Storage slot of node `j` of a branch's tail."""
    def move(self, source: int, target: int) -> None:
        """Copy the keys and values of a slot to another."""
    def poison(self, slot: int) -> None:
        """Fill a slot with NaN."""
    def k(self, slot: int) -> NDArray[float32]:
        """Keys of a slot, [layers, kv_heads, head_dim]."""
    def v(self, slot: int) -> NDArray[float32]:
        """Values of a slot, [layers, kv_heads, head_dim]."""
    @property
    def slots(self) -> int:
        """Number of slots of the ring and of all tails."""

class ChooseBench:
    """Times the sampling of given rows of logits [rows, vocab] alone."""

    def __init__(self, logits: NDArray[float32], threads: int) -> None: ...
    def run(self, sampling: Sampling, width: int, times: int) -> tuple[list[int], list[int]]:
        """Nanoseconds of each of `times` choices by `width` threads, and the rows' tokens."""

class Roofs:
    """The most that a team of threads here can read and compute, by an instruction set."""

    def __init__(self, threads: int, isa: str = "auto") -> None: ...
    def read(self, bytes: int, times: int = 5) -> float:
        """Bytes per second of reading `bytes` bytes repeatedly, the best of `times`."""
    def peak(self, steps: int = ..., times: int = 5) -> float:
        """Floating-point operations per second of fma in registers, the best of `times`."""
    def integers(self, steps: int = ..., times: int = 5) -> float:
        """Integer operations per second of dot products in registers, the best of `times`."""

def policy(
    gamma: int = 0,
    branches: int = 0,
    adaptive: bool = False,
    epsilon: float = 0.0,
    serial: bool = False,
    likely: bool = False,
    **fields: float,
) -> Policy:
    """A Policy by few words. serial: the gamma steps are a burst before every forward of the
    target, grown `width` nodes a step. adaptive, likely: the ranking."""
