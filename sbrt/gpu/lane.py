"""A checkpoint as a model whose lanes are recordings: what `_core.Runtime` takes for a Decoder.

    model = model_of(open_checkpoint(folder), device="cuda", rows=16)

On the CPU the same recordings run as lists of calls (`ops="torch"` the twins, `ops="triton"` the
kernels in Triton's interpreter): a way to test them, not to be fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .._core import RecordedModel, inverse_frequencies
from ..checkpoint import Checkpoint, Progress
from ..errors import InvalidInputError
from ..methods import Method
from ..model_config import ModelConfig
from ..triton_kernels.choose_plan import ChoosePlan, ChooseWork, choose_work
from ..triton_kernels.control import MAX_ROWS, MAX_STEP_ROWS, SLOTS, Control, RowTable, size
from ..triton_kernels.plan import AttentionPlan, Workspace, workspace
from ..triton_kernels.rope import Rope
from ..triton_kernels.settle import Settle
from . import weights as loading
from .decoder import FEATURE_LAYERS, Buffers, Decoder, Rows, attention_plan
from .memory import Arena, MemoryPlan, budget_of, words_at
from .ops import Ops, Run, ops_named
from .recorder import CudaRecorder, Piece, Recorder, TapeRecorder, expect_device
from .weights import Weights

ROWS = (16, 32, 64)  # of a verification graph
STEP_ROWS = (1, 4, 16, 64)  # of a draft's graphs, and then multiples of 64
ENDLESS = 1 << 40  # kEndless of csrc/model/lane.h


@dataclass(frozen=True)
class LaneShape:
    """What a lane must hold; the fields are those of csrc/model/lane.h."""

    max_len: int
    max_rows: int
    branches: int
    tail_slots: int
    debug: bool
    features: bool

    @property
    def is_draft(self) -> bool:
        """Whether it keeps laws of its rows: a lane with tails."""
        return self.branches > 0


def model_of(
    checkpoint: Checkpoint,
    *,
    device: str = "cuda",
    ops: str | None = None,
    dtype: str = "auto",
    rows: int = MAX_ROWS,
    memory: int | None = None,
    progress: Progress | None = None,
    on_bind: Callable[[GpuLane], None] | None = None,
) -> RecordedModel:
    """Load weights to `device` and give a model that records its lanes when they are bound.

    ops: "triton" or "torch" (default: kernels on a device, twins on a CPU). rows: of a target's
    one verification graph, 16, 32 or 64: whoever verifies more replays it again. memory: bytes
    that the weights, and each lane, may take (default: nine tenths of what is free). on_bind: is
    shown every lane. Raises EngineError without the device, InvalidInputError for anything that
    cannot be, each one sentence.
    """
    place = torch.device(device)
    if place.type == "cuda":
        expect_device(place)
    if rows not in ROWS:
        raise InvalidInputError(f"rows: expected one of {', '.join(map(str, ROWS))}, got {rows}")
    chosen = ops_named(ops or ("triton" if place.type == "cuda" else "torch"))
    config = checkpoint.config
    storage = loading.storage_of(checkpoint, dtype)
    check_sizes(config, storage)
    budget = budget_of(place, memory)
    weights = loading.load(checkpoint, storage, place, budget=budget, progress=progress)

    def bind(**shape: int) -> GpuLane:
        recorder: Recorder = CudaRecorder(place) if place.type == "cuda" else TapeRecorder()
        left = budget_of(place, memory)
        if memory is not None:
            left = memory - weights.plan.bytes
        lane = GpuLane(weights, LaneShape(**shape), chosen, recorder, rows, left)  # type: ignore[arg-type]
        if on_bind:
            on_bind(lane)
        return lane

    return RecordedModel(
        vocab=config.vocab,
        max_positions=config.max_positions,
        longest=ENDLESS if config.window else config.max_positions,
        bind=bind,
    )


def rows_for(method: Method) -> int:
    """Rows of a verification graph that holds the root and any chain of a method."""
    nodes = max(int(arm.options.get("nodes", arm.gamma)) for arm in method.arms)
    return next(rows for rows in ROWS if nodes < rows)


def check_sizes(config: ModelConfig, dtype: torch.dtype) -> None:
    """Raises InvalidInputError on a model whose attention the kernels do not have."""
    try:
        attention_plan(config, dtype, 1, SLOTS, 0, 1)
    except ValueError as error:
        raise InvalidInputError(f"{config.architecture} on this device: {error}") from None


class GpuLane:
    """One lane's memory, and the recordings that work in it.

    What csrc/bind/recorded.cc reads: sizes, addresses, and `forward`, `choose`, `moves`, each of
    which gives pieces for more and more rows.
    """

    def __init__(
        self,
        weights: Weights,
        shape: LaneShape,
        ops: Ops,
        recorder: Recorder,
        rows: int,
        budget: int | None,
    ) -> None:
        config = weights.config
        self.weights, self.shape, self.ops, self.recorder = weights, shape, ops, recorder
        self.device = weights.embed.device
        self.window = min(config.window or shape.max_len, shape.max_len)
        self.capacity = self.window + SLOTS
        self.slots = self.capacity + shape.branches * shape.tail_slots
        self.sizes = _sizes(shape, rows)
        self.plans = {count: self._plan(count) for count in self._chunks()}
        self.memory = self._memory(config)
        self.arena = Arena(self.memory, self.device, budget)
        self.works = {count: self._workspace(count) for count in self.plans}
        self.buffers = self._buffers()
        rope = _rope(config, self.device)
        self.decoder = Decoder(weights, ops, self.buffers, rope)

    # --- what the core reads ---

    @property
    def layers(self) -> int:
        """Of the model."""
        return self.weights.config.layers

    @property
    def kv_heads(self) -> int:
        """Of a layer."""
        return self.weights.config.kv_heads

    @property
    def head_dim(self) -> int:
        """Of a head."""
        return self.weights.config.head_dim

    @property
    def vocab(self) -> int:
        """Logits of a row."""
        return self.weights.config.vocab

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.weights.config.hidden

    @property
    def dtype(self) -> str:
        """Of embedding and features."""
        return next(n for n, d in loading.DTYPES.items() if d == self.weights.dtype)

    @property
    def logits(self) -> int:
        """Address of [max_rows, vocab] float32."""
        return self.buffers.logits.data_ptr()

    @property
    def features(self) -> int:
        """Address of [max_rows, 4, hidden]; 0: not kept."""
        kept = self.buffers.features
        return 0 if kept is None else kept.data_ptr()

    @property
    def embed(self) -> int:
        """Address of [vocab, hidden]."""
        return self.weights.embed.data_ptr()

    def forward(self, rows: int, with_logits: bool) -> list[Piece]:
        """Forwards over the row table at address `rows`."""
        table = words_at(rows, size(RowTable), self.device)
        if not with_logits:
            return [self._record_forward(table, MAX_ROWS, False)]
        return [self._record_forward(table, count, True) for count in self.sizes]

    def choose(
        self, rows: int, control: int, out: int, vocab: int, laws: bool, filters: bool
    ) -> list[Piece]:
        """Choices of the rows of the last forward: Choice words, or Law words with `laws`."""
        table = words_at(rows, size(RowTable), self.device)
        block = words_at(control, size(Control), self.device)
        pieces = []
        for count in self.sizes:
            plan = ChoosePlan(count, vocab, laws=laws, filtered=filters)
            words = words_at(out, count * plan.out_words, self.device)
            choice = Choice(self.buffers.logits[:count, :vocab], block, table, plan, words)
            pieces.append(self._record_choice(choice))
        return pieces

    def moves(self, control: int, which: int) -> list[Piece]:
        """The moves behind a `settle`; `which` counts as Moves of csrc/model/lane.h."""
        block = words_at(control, size(Control), self.device)
        what, shape = Settle(which), self.shape

        def settle(run: Run) -> None:
            run(
                self.ops.ring_settle, block, self.buffers.kv, capacity=self.capacity,
                tail_slots=shape.tail_slots, what=what, poison=shape.debug,
            )  # fmt: skip

        return [self.recorder.record(settle, MAX_ROWS)]

    def describe(self) -> str:
        """Weights, and every part of the lane's memory, one line each."""
        return f"{self.weights.plan.describe()}\n{self.memory.describe()}"

    # --- memory ---

    def _chunks(self) -> list[int]:
        """Rows of the forwards that the sizes are made of, and of prefill."""
        return sorted({MAX_ROWS, *(min(count, self._chunk(count)) for count in self.sizes)})

    def _chunk(self, count: int) -> int:
        """A target verifies with one graph; a draft takes its larger steps in parts of 64 rows."""
        return min(count, MAX_ROWS) if self.shape.is_draft else self.sizes[0]

    def _plan(self, count: int) -> AttentionPlan:
        config = self.weights.config
        tails = self.shape.tail_slots
        return attention_plan(config, self.weights.dtype, count, self.capacity, tails, self.window)

    def _memory(self, c: ModelConfig) -> MemoryPlan:
        dtype, shape = self.weights.dtype, self.shape
        plan = MemoryPlan("draft lane" if shape.is_draft else "target lane")
        kv = (2, c.layers, c.kv_heads, self.slots, c.head_dim)
        plan.add("KV ring", "kv", kv, dtype)
        for name, sizes in {
            "h": (c.hidden,),
            "x": (c.hidden,),
            "normed": (c.hidden,),
            "qkv": (c.heads + 2 * c.kv_heads, c.head_dim),
            "attended": (c.heads, c.head_dim),
            "gate_up": (2 * c.inner,),
            "gated": (c.inner,),
        }.items():
            plan.add("activations", name, (MAX_ROWS, *sizes), dtype)
        most = self.sizes[-1]
        plan.add("logits", "logits", (most, c.vocab), torch.float32)
        if dtype != torch.float32 and self.device.type != "cuda":
            plan.add("logits", "raw", (MAX_ROWS, c.vocab), dtype)
        if shape.features:
            plan.add("features", "features", (most, FEATURE_LAYERS, c.hidden), dtype)
        for count, each in self.plans.items():
            _add_fields(plan, "attention", f"attention.{count}", workspace(each, "meta"))
        choice = ChoosePlan(most, c.vocab, laws=shape.is_draft)
        _add_fields(plan, "choice", "choice", choose_work(choice, "meta"))
        return plan

    def _workspace(self, count: int) -> Workspace:
        meta = workspace(self.plans[count], "meta")
        return Workspace(**{name: self.arena[f"attention.{count}.{name}"] for name in vars(meta)})

    def _buffers(self) -> Buffers:
        known = {item.name for item in self.memory.items}
        names = ("h", "x", "normed", "qkv", "attended", "gate_up", "gated", "logits", "kv")
        return Buffers(
            **{name: self.arena[name] for name in names},
            raw=self.arena["raw"] if "raw" in known else None,
            features=self.arena["features"] if "features" in known else None,
        )

    # --- recordings ---

    def _record_forward(self, table: torch.Tensor, count: int, with_logits: bool) -> Piece:
        chunk = self._chunk(count) if with_logits else count
        work = self.works[chunk]
        parts = [
            Rows(table, first, chunk, self.plans[chunk], work) for first in range(0, count, chunk)
        ]

        def forwards(run: Run) -> None:
            for rows in parts:
                self.decoder.forward(run, rows, with_logits)

        return self.recorder.record(forwards, count)

    def _record_choice(self, choice: Choice) -> Piece:
        work = self._choice_work(choice.plan)
        out = choice.words.view(choice.plan.rows, choice.plan.out_words)

        def choose(run: Run) -> None:
            run(
                self.ops.choose, choice.logits, choice.control, choice.table,
                plan=choice.plan, work=work, out=out,
            )  # fmt: skip

        return self.recorder.record(choose, choice.plan.rows)

    def _choice_work(self, plan: ChoosePlan) -> ChooseWork:
        """The lane's memory for choices, cut to a plan's sizes."""
        meta = choose_work(plan, "meta")
        cut = {}
        for name, wanted in vars(meta).items():
            cut[name] = self.arena[f"choice.{name}"].flatten()[: wanted.numel()].view(wanted.shape)
        return ChooseWork(**cut)


@dataclass(frozen=True)
class Choice:
    """What a choice reads and writes: logits, block, table, words of its result."""

    logits: torch.Tensor
    control: torch.Tensor
    table: torch.Tensor
    plan: ChoosePlan
    words: torch.Tensor


def _sizes(shape: LaneShape, rows: int) -> list[int]:
    """Rows that a lane has graphs for, ascending."""
    if not shape.is_draft:
        return list(range(rows, MAX_ROWS + 1, rows))
    most = min(MAX_STEP_ROWS, -(-shape.max_rows // MAX_ROWS) * MAX_ROWS)
    doubled = [MAX_ROWS << i for i in range(1, 4) if MAX_ROWS << i < 2 * most]
    return [*STEP_ROWS, *doubled]


def _add_fields(plan: MemoryPlan, part: str, prefix: str, given: Workspace | ChooseWork) -> None:
    for name, tensor in vars(given).items():
        plan.add(part, f"{prefix}.{name}", tensor.shape, tensor.dtype)


def _rope(config: ModelConfig, device: torch.device) -> Rope:
    """The model's, without the norms of its heads."""
    scaling = config.rope.core()
    found = inverse_frequencies(config.head_dim, config.rope_theta, scaling)
    inv_freq = torch.tensor(found, dtype=torch.float32, device=device)
    amplitude = config.rope.attention_factor if config.rope.kind == "yarn" else 1.0
    return Rope(inv_freq, float(torch.tensor(amplitude, dtype=torch.float32)))
