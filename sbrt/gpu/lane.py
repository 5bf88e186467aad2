"""Makes a model whose lanes are recordings. `_core.EngineCore` accepts it in place of a Decoder.

    model = model_of(open_checkpoint(folder), device="cuda", rows=16)

On the CPU the same recordings run as lists of calls, for tests. `ops="torch"` runs plain torch
instead of the kernels, `ops="triton"` runs the kernels in Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from .._core import ENDLESS, Model, RecordedModel, build_info
from ..errors import EngineError, InvalidInputError
from ..methods import Method
from ..model.checkpoint import Checkpoint, Progress
from ..model.config import ModelConfig
from ..triton_kernels.choose_plan import ChoosePlan
from ..triton_kernels.draw import Scores
from ..triton_kernels.settle import Seats, Settle
from ..triton_kernels.shaping import Shaping
from ..triton_kernels.state import MAX_ROWS, RECORDS, SLOTS, Batch, Sequence, size
from . import weights as loading
from .decoder import Decoder, PromptRows, Rows, attention_plan
from .fused import FusedDecoder
from .integer import IntegerDecoder
from .kinds import rope_of_kind
from .memory import budget_of, values_at, words_at
from .ops import Ops, Run, early, ops_named
from .packing import layouts_of
from .prefill import Flash, flash_for, scratch_bytes
from .recorder import (
    CudaRecorder,
    EagerRecorder,
    Piece,
    Recorder,
    TapeRecorder,
    expect_device,
)
from .store import Choice, LaneShape, LaneStore
from .weights import Weights

ROWS = (16, 32, 64)  # numbers of rows that a verification graph may have
# Implementations of a layer's matrix products: "fused" is in fused.py, "cublas" in decoder.py.
PRODUCTS = ("fused", "cublas")


def model_of(
    checkpoint: Checkpoint,
    *,
    device: str = "cuda",
    ops: str | None = None,
    dtype: str = "auto",
    rows: int | None = MAX_ROWS,
    memory: int | None = None,
    attention: str = "auto",
    products: str = "fused",
    progress: Progress | None = None,
    on_bind: Callable[[GpuLane], None] | None = None,
    eager: bool = False,
    programmatic_launch: bool = False,
    target: Model | None = None,
) -> RecordedModel:
    """Load weights to `device` and return a model. It records a lane's ops when an engine binds it.

    ops: "triton" or "torch" (default: triton on a device, torch on a CPU).
    rows: 16, 32 or 64 rows in every verification forward of a target; more rows take more forwards.
    None: there are graphs of several sizes (EngineConfig.mode fast).
    memory: maximum bytes of the weights and one lane together. Default: 9/10 of the free memory.
    attention: the attention backend for prompts, see flash_for.
    products: "fused" gives five graph nodes per layer; "cublas" gives nine, with torch's products.
    on_bind: called with every new lane. eager: run ops one by one, without graphs.
    programmatic_launch: let kernels start before the previous kernel has ended.
    target: the model whose embedding a draft shares. Raises EngineError if the device is missing,
    InvalidInputError for bad arguments.
    """
    place = torch.device(device)
    if place.type == "cuda":
        expect_device(place)
    if rows is not None and rows not in ROWS:
        raise InvalidInputError(f"rows: expected one of {', '.join(map(str, ROWS))}, got {rows}")
    if products not in PRODUCTS:
        raise InvalidInputError(f"products: expected one of {', '.join(PRODUCTS)}, got {products}")
    chosen = ops_named(ops or ("triton" if place.type == "cuda" else "torch"))
    chosen = early(replace(chosen, fused=products == "fused"), programmatic_launch)
    config = checkpoint.config
    attention = _ways_of(checkpoint, dtype, attention, products)
    storage = loading.storage_of(checkpoint, dtype)
    check_sizes(config, storage)
    flash_for(attention, place, storage, config.head_dim)  # raises before any weight is read
    budget = budget_of(place, memory)
    lender = _lent(target, place) if checkpoint.shares_embedding else None
    weights = loading.load(checkpoint, dtype, place, budget, progress, lender)
    return model_with(
        weights, chosen, rows=rows, memory=memory, attention=attention, on_bind=on_bind, eager=eager
    )


def _lent(target: Model | None, place: torch.device) -> Weights | None:
    """Return the target's weights. An embedding on another device is copied to `place`."""
    weights: Weights | None = getattr(target, "_weights", None)
    if weights is None or place.index in (None, weights.embed.device.index):
        return weights
    return replace(weights, embed=weights.embed.to(place))


def model_with(
    weights: Weights,
    ops: Ops,
    *,
    rows: int | None = MAX_ROWS,
    memory: int | None = None,
    attention: str = "auto",
    on_bind: Callable[[GpuLane], None] | None = None,
    eager: bool = False,
) -> RecordedModel:
    """Like model_of, for weights that are already on their device."""
    config, place = weights.config, weights.embed.device
    attention = _attention_for(attention, weights.is_packed)
    flash = flash_for(attention, place, weights.dtype, config.head_dim)

    def bind(**shape: int) -> GpuLane:
        recorder = _recorder(place, eager, shape["stream"])
        left = budget_of(place, memory)
        if memory is not None:
            left = memory - weights.plan.bytes
        lane = GpuLane(weights, LaneShape(**shape), ops, recorder, rows, left, flash)  # type: ignore[arg-type]
        if on_bind:
            on_bind(lane)
        return lane

    model = RecordedModel(
        vocab=config.vocab,
        max_positions=config.max_positions,
        longest=ENDLESS if config.is_bounded else config.max_positions,
        bind=bind,
        head_ids=weights.head_ids,
    )
    model._weights = weights
    return model


def _ways_of(checkpoint: Checkpoint, dtype: str, attention: str, products: str) -> str:
    """Check `products`, and return the attention backend for prompts. Raises InvalidInputError."""
    is_packed = bool(layouts_of(checkpoint, dtype))
    if is_packed and products != "fused":
        raise InvalidInputError(f"products: expected fused with quantised weights, got {products}")
    return _attention_for(attention, is_packed)


def _attention_for(attention: str, is_packed: bool) -> str:
    """Return the attention backend for prompts. Quantised weights need backend triton, because
    their forwards have at most 64 rows. Raises InvalidInputError for another backend with them."""
    if is_packed and attention not in ("auto", "triton"):
        raise InvalidInputError(
            f"attention_backend: expected auto or triton with quantised weights, got {attention}"
        )
    return "triton" if is_packed else attention


def _recorder(place: torch.device, eager: bool, stream: int) -> Recorder:
    if place.type != "cuda":
        return TapeRecorder()
    return EagerRecorder(place) if eager else CudaRecorder(place, stream)


def rows_for(method: Method, seats: int = 1) -> int:
    """Return the least number in ROWS that holds roots and chain nodes of all seats; at most 64."""
    policies = [policy for arm in method.arms if (policy := arm.policy())]
    needed = seats * (1 + max(policy.most_nodes for policy in policies))
    return next((rows for rows in ROWS if needed <= rows), ROWS[-1])


def expect_core(device: str) -> None:
    """Raise EngineError if there is no such device, or if the C++ core cannot replay on it."""
    expect_device(torch.device(device))
    if not build_info()["cuda"]:
        raise EngineError(
            f"device {device}: expected a core that was built with CUDA, got one without "
            "(SBRT_CUDA=ON says why)"
        )


def check_sizes(config: ModelConfig, dtype: torch.dtype) -> None:
    """Raise InvalidInputError for a model whose sizes no attention kernel supports."""
    try:
        attention_plan(config, dtype, 1, SLOTS, 0, None)
    except ValueError as error:
        raise InvalidInputError(f"{config.architecture} on this device: {error}") from None


class GpuLane(LaneStore):
    """One lane's memory, and the recordings that use it.

    csrc/bind/recorded.cc reads the lane's sizes and addresses, and calls `forward`, `choose` and
    `moves`. Each of these three returns recordings for increasing numbers of rows.
    """

    def __init__(
        self,
        weights: Weights,
        shape: LaneShape,
        ops: Ops,
        recorder: Recorder,
        rows: int | None,
        budget: int | None,
        flash: Flash | None = None,
    ) -> None:
        super().__init__(weights, shape, rows, budget, flash)
        self.ops, self.recorder = ops, recorder
        ropes = [rope_of_kind(weights.config, kind, self.device) for kind in self.kinds]
        self.decoder = Decoder(weights, ops, self.buffers, ropes)
        self.few = self._few()
        self._made: dict[tuple[object, ...], list[Piece]] = {}  # recordings, by kind and arguments

    def _few(self) -> Decoder | FusedDecoder | IntegerDecoder:
        """Return the decoder that records forwards of up to 64 rows."""
        if self.weights.is_packed:
            return IntegerDecoder(self.decoder, self.integers(), self.linear_work)
        if self.ops.fused:
            return FusedDecoder(self.decoder, self.products, self.linear_work)
        return self.decoder

    # --- the members that the C++ core reads ---

    @property
    def layers(self) -> int:
        """Number of layers of the model."""
        return self.weights.config.layers

    @property
    def kv_heads(self) -> int:
        """Number of KV heads of a layer."""
        return self.weights.config.kv_heads

    @property
    def head_dim(self) -> int:
        """Elements of a head."""
        return self.weights.config.head_dim

    @property
    def vocab(self) -> int:
        """Number of token ids that the lane can read."""
        return self.weights.config.vocab

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.weights.config.hidden

    @property
    def dtype(self) -> str:
        """Name of the dtype of embedding and features."""
        return next(n for n, d in loading.DTYPES.items() if d == self.weights.dtype)

    @property
    def logits(self) -> int:
        """Address of the logits, float32 [max_rows, columns]."""
        return self.buffers.logits.data_ptr()

    @property
    def features(self) -> int:
        """Address of the features, [max_rows, 4, hidden]; 0 if none are kept."""
        kept = self.buffers.features
        return 0 if kept is None else kept.data_ptr()

    @property
    def embed(self) -> int:
        """Address of the embedding, [vocab, hidden]."""
        return self.weights.embed.data_ptr()

    @property
    def kv(self) -> int:
        """Address of K and V, [2, layers, kv_heads, slots, head_dim]. 0 if no other prompt can
        reuse them: K and V of a token then depend on how the prompt was cut into pieces."""
        differs = self.flash is not None or self.few is self.decoder
        return 0 if differs else self.buffers.kv.data_ptr()

    @property
    def prefill_rows(self) -> int:
        """Number of rows of the widest forward that computes no logits."""
        return self.fed[-1]

    def forward(self, rows: int, with_logits: bool) -> list[Piece]:
        """Return the recorded forwards over the row table at address `rows`. Calls with equal
        arguments return the same recordings."""

        def made() -> list[Piece]:
            table = words_at(rows, size(Batch), self.device)
            if with_logits:
                return [self.record_forward(table, count, True) for count in self.sizes]
            few, *many = self.fed
            first = self.record_forward(table, few, False)
            return [first, *(self.record_prefill(table, count) for count in many)]

        return self._once(made, "forward", rows, with_logits)

    def choose(
        self,
        where: tuple[int, int, int],
        columns: int,
        dists: bool,
        filters: bool,
        shaping: tuple[int, ...] | None = None,
        scores: tuple[int, int] | None = None,
    ) -> list[Piece]:
        """Return recordings that sample at the rows of the last forward.

        where: addresses of row table, sequences and result. columns: number of used logits per row.
        dists: write Dist words, not Choice words. filters: support min_p, top_k and top_p.
        shaping (for requests that change logits): addresses of mask, bias, counts and seen, each
        [seats, vocab]; vocab; address and row length of the bad words, and then of the trunks.
        scores (for rejection sampling): address and number of rows of the [seats, rows, columns].
        Calls with equal arguments return the same recordings.
        """

        def made() -> list[Piece]:
            plan = ChoosePlan(
                MAX_ROWS, columns, dists, shaping is not None, filters,
                trimmed=self.weights.ids is not None, keeps=scores is not None,
            )  # fmt: skip
            return self._choices(where, plan, shaping, scores)

        return self._once(made, "choose", where, columns, dists, filters, shaping, scores)

    def _once(self, make: Callable[[], list[Piece]], *asked: object) -> list[Piece]:
        if asked not in self._made:
            self._made[asked] = make()
        return self._made[asked]

    def _choices(
        self,
        where: tuple[int, int, int],
        largest: ChoosePlan,
        shaping: tuple[int, ...] | None,
        scores: tuple[int, int] | None,
    ) -> list[Piece]:
        (rows, sequences, out), columns = where, largest.vocab
        table = words_at(rows, size(Batch), self.device)
        block = self._sequences(sequences)
        ids = None if self.weights.ids is None else self.weights.ids[:columns]
        tokens = columns if ids is None else self.weights.head_ids[columns - 1] + 1
        dense = None if shaping is None else self._dense(shaping, tokens)
        kept = None if scores is None else self._scores(scores, columns)
        pieces = []
        for count in self.sizes:
            plan = replace(largest, rows=count)
            words = words_at(out, count * plan.out_words, self.device)
            logits = self.buffers.logits[:count, :columns]
            choice = Choice(logits, block, table, plan, words, dense, ids, kept)
            pieces.append(self._record_choice(choice))
        return pieces

    def _scores(self, given: tuple[int, int], columns: int) -> Scores:
        address, rows = given
        count = self.shape.seats * rows * columns
        values = values_at(address, count, torch.float32, self.device)
        return Scores(values.view(self.shape.seats, rows, columns), self.shape.tail_slots)

    def _sequences(self, address: int) -> torch.Tensor:
        return words_at(address, self.shape.seats * size(Sequence), self.device)

    def _dense(self, given: tuple[int, ...], tokens: int) -> Shaping:
        *addresses, vocab, words, words_room, trunk, trunk_room = given
        kinds = (torch.uint8, torch.float32, torch.int32, torch.uint8)

        def rows(address: int, count: int, kind: torch.dtype) -> torch.Tensor:
            seats = self.shape.seats
            return values_at(address, seats * count, kind, self.device).view(seats, count)

        return Shaping(
            *(rows(a, vocab, k)[:, :tokens] for a, k in zip(addresses, kinds, strict=True)),
            words=rows(words, words_room, torch.int32),
            trunk=rows(trunk, trunk_room, torch.int32),
        )

    def moves(self, where: tuple[int, int, int], which: int) -> list[Piece]:
        """Return one recording, which moves KV after the op `settle`.

        where: addresses of the sequences, of the roll, and of the number of rounds that ended.
        which: a value of Moves in csrc/model/lane.h.
        """
        sequences, roll, ended = where
        block = self._sequences(sequences)
        what, shape = Settle(which), self.shape
        seats = Seats(
            shape.seats, self.seat_slots,
            words_at(roll, 2 * RECORDS, self.device), words_at(ended, 2, self.device),
        )  # fmt: skip

        def settle(run: Run) -> None:
            run(
                self.ops.ring_settle, block, self.buffers.kv, capacity=self.capacity,
                tail_slots=shape.tail_slots, what=what, poison=shape.debug, seats=seats,
            )  # fmt: skip

        return [self.recorder.record(settle, MAX_ROWS)]

    # --- recordings ---

    def record_forward(self, table: torch.Tensor, count: int, with_logits: bool) -> Piece:
        """Record a forward of up to `count` rows. table: the tensor that holds the row table."""
        chunk = self.chunk(count) if with_logits else count
        sights = self.sights(chunk)
        parts = [Rows(table, first, chunk, sights) for first in range(0, count, chunk)]

        forward = self.few.forward

        def forwards(run: Run) -> None:
            for rows in parts:
                forward(run, rows, with_logits)

        return self.recorder.record(forwards, count)

    def record_prefill(self, table: torch.Tensor, count: int) -> Piece:
        """Record a forward of up to `count` prompt rows, without logits. `count` is above 64."""
        assert self.flash is not None
        rows = PromptRows(table, count, self.lengths(count), self.flash)
        config = self.weights.config
        scratch = scratch_bytes(config, self.weights.dtype, count) * (config.layers - 1)
        return self.recorder.record(lambda run: self.decoder.prefill(run, rows), count, scratch)

    def _record_choice(self, choice: Choice) -> Piece:
        work = self.choice_work(choice.plan)
        out = choice.words.view(choice.plan.rows, choice.plan.out_words)

        def choose(run: Run) -> None:
            run(
                self.ops.choose, choice.logits, choice.sequence, choice.table,
                plan=choice.plan, work=work, out=out, shaping=choice.shaping, ids=choice.ids,
                scores=choice.scores,
            )  # fmt: skip

        return self.recorder.record(choose, choice.plan.rows)
