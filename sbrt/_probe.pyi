"""Parts of the core by themselves, for the tests and benches of a checkout (csrc/probe)."""

from collections.abc import Sequence
from typing import Any

from numpy import float32, float64
from numpy.typing import NDArray

from ._core import Model, Sampling

class Place:
    """A node's laws p and q [vocab] as rejection uses them up (csrc/round/accept.h).

    Raises InvalidInputError on laws of different sizes, or a token they do not have.
    """

    def __init__(self, p: NDArray[float64], q: NDArray[float64]) -> None: ...
    @property
    def p(self) -> NDArray[float64]:
        """What the token must be drawn from, [vocab]; a copy."""
    @property
    def q(self) -> NDArray[float64]:
        """What the next candidate was drawn from, [vocab]; a copy."""
    def stands(self, token: int, u: float) -> bool:
        """Whether a drawn candidate does, given a coin u in [0, 1)."""
    def reject(self, token: int) -> bool:
        """After a drawn candidate that does not stand; False if nothing of p is left."""
    def reject_known(self, token: int) -> bool:
        """After one that was not drawn."""
    def draw(self, u: float) -> int:
        """The token of p at u in [0, 1)."""

class KernelBench:
    """Times every op of a model's forward where it stands, choosing tokens included."""

    def __init__(self, model: Model, max_len: int, max_rows: int, threads: int) -> None: ...
    def run(
        self, head: int, rows: int, width: int, times: int, temperature: float = 0.0
    ) -> list[dict[str, Any]]:
        """`rows` rows of one path behind `head` tokens, `times` forwards by `width` threads.

        Per op in order: op, shape, bytes (moved at least), weights (bytes of them), flops, ns (of
        each forward, the meeting behind the op included). Raises InvalidInputError.
        """

class LaneProbe:
    """One lane by itself. Slots are storage slots: `slot` and `tail` give them."""

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
        """rows: (token, position, slot, branch, chain mask, tail mask) each; gives logits
        [rows, vocab], or None without logits."""

    def slot(self, position: int) -> int:
        """Of a position in the ring."""
    def tail(self, branch: int, j: int) -> int:
        """Of node `j` of a branch's tail."""
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
        """Of the ring and of all tails."""

class ChooseBench:
    """Times the choice of given rows of logits [rows, vocab] by itself."""

    def __init__(self, logits: NDArray[float32], threads: int) -> None: ...
    def run(self, sampling: Sampling, width: int, times: int) -> tuple[list[int], list[int]]:
        """Nanoseconds of each of `times` choices by `width` threads, and the rows' tokens."""

class Roofs:
    """What a team of this machine can read and compute at most, by an instruction set."""

    def __init__(self, threads: int, isa: str = "auto") -> None: ...
    def read(self, bytes: int, times: int = 5) -> float:
        """Bytes per second of reading `bytes` bytes again and again, the best of `times`."""
    def peak(self, steps: int = ..., times: int = 5) -> float:
        """Floating-point operations per second of fma in registers, the best of `times`."""
    def integers(self, steps: int = ..., times: int = 5) -> float:
        """Integer operations per second of dot products in registers, the best of `times`."""
