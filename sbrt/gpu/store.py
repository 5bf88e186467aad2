"""The buffers of a lane: the ring, the buffers of a forward, and scratch memory for attention,
matrix products and sampling.

All buffers are planned together and allocated together. No forward allocates more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .._core import FEATURE_LAYERS
from ..model.config import ModelConfig
from ..triton_kernels.choose_plan import ChoosePlan, ChooseWork, choose_work
from ..triton_kernels.draw import Scores
from ..triton_kernels.linear_plan import LinearWork, linear_work
from ..triton_kernels.packed import IntegerRows, integer_sizes
from ..triton_kernels.plan import AttentionPlan, Workspace, architecture_of, workspace
from ..triton_kernels.shaping import Shaping
from ..triton_kernels.state import KEY_PANEL, MAX_ROWS, MAX_STEP_ROWS, SLOTS
from .decoder import Buffers, Sight, attention_plan
from .fused import Products, products_of
from .integer import Integers, float_plans, widest
from .kinds import LayerKind, kinds_of, scale_of
from .memory import Arena, MemoryPlan
from .prefill import Flash, Lengths, prefill_sizes, reserved_bytes
from .weights import Weights

STEP_ROWS = (1, 4, 16, 64)  # rows of a draft's graphs; larger ones have 128, 256 or 512
FAST_ROWS = (1, 4, 16, 32, 64)  # rows of a target's graphs in mode fast


@dataclass(frozen=True)
class LaneShape:
    """The sizes that a lane must have. csrc/model/lane.h describes the fields."""

    max_len: int
    max_rows: int
    branches: int
    tail_slots: int
    debug: bool
    features: bool
    on_device: bool = False
    stream: int = 0  # on a device: the cudaStream_t that the lane runs on
    seats: int = 1
    scores: bool = False  # keep scores of sampled rows, for rejection sampling

    @property
    def is_draft(self) -> bool:
        """True for a draft lane: it has tails, and it keeps the distributions of its rows."""
        return self.branches > 0


@dataclass(frozen=True)
class Choice:
    """Arguments of one recording of the op `choose`.

    logits    [rows, columns]
    sequence  int32 words of the sequences of all seats
    table     int32 words of the row table
    words     int32 words of the result
    shaping   masks, bias and counts of the seats, if requests may change logits
    ids       int32 [columns], the token id of each column; None: all ids
    scores    memory for scores, if rejection sampling is supported
    """

    logits: torch.Tensor
    sequence: torch.Tensor
    table: torch.Tensor
    plan: ChoosePlan
    words: torch.Tensor
    shaping: Shaping | None
    ids: torch.Tensor | None
    scores: Scores | None


class LaneStore:
    """The memory of one lane, planned from the sizes of its model and its shape.

    rows: number of rows of a target's smallest graph; the larger graphs repeat its forward. If rows
    is None, a target has a graph for each number in FAST_ROWS. flash: attention function for prompt
    forwards of more than 64 rows. Raises InvalidInputError, one sentence, if the memory exceeds
    `budget` bytes.

    sizes: numbers of rows for which the lane has graphs. fed: numbers of rows of the prompt
    forwards.
    """

    def __init__(
        self,
        weights: Weights,
        shape: LaneShape,
        rows: int | None,
        budget: int | None,
        flash: Flash | None = None,
    ) -> None:
        config = weights.config
        self.weights, self.shape = weights, shape
        self.device = weights.embed.device
        self.shapes = shape.on_device  # if False, CPU ops apply the changes to logits
        self.kinds = kinds_of(config)
        self.limits = [_limit_of(kind, shape.max_len) for kind in self.kinds]
        self.window = max(limit or shape.max_len for limit in self.limits)
        self.capacity = self.window + SLOTS
        own = self.capacity + shape.branches * shape.tail_slots
        # If there are several seats, each one begins at a multiple of KEY_PANEL, as in
        # csrc/ring/shape.h.
        self.seat_slots = own if shape.seats == 1 else -(-own // KEY_PANEL) * KEY_PANEL
        self.slots = shape.seats * self.seat_slots
        # True if one forward computes all rows, up to 64
        self.is_whole = shape.is_draft or rows is None
        self.sizes = _sizes(shape, rows)
        self.flash, self.fed = flash, prefill_sizes(flash, self.capacity)
        self.plans = {
            count: [self._plan(count, limit) for limit in self.limits] for count in self._chunks()
        }
        self.products: dict[int, Products] = {}
        if not weights.is_packed:
            self.products = {count: self._products(count) for count in self.plans}
        self.memory = self._memory(config)
        self.arena = Arena(self.memory, self.device, budget)
        self.works = {count: self._workspaces(count) for count in self.plans}
        self.linear_work = self._linear_work()
        self.buffers = self._buffers()

    def describe(self) -> str:
        """Return two lines: the memory of the weights, and the memory of every part of the lane."""
        return f"{self.weights.plan.describe()}\n{self.memory.describe()}"

    def choice_work(self, plan: ChoosePlan) -> ChooseWork:
        """Return the lane's scratch memory for sampling, as tensors of the sizes of `plan`."""
        meta = choose_work(plan, "meta")
        cut = {}
        for name, wanted in vars(meta).items():
            cut[name] = self.arena[f"choice.{name}"].flatten()[: wanted.numel()].view(wanted.shape)
        return ChooseWork(**cut)

    def _chunks(self) -> list[int]:
        """Return all numbers of rows that one forward may have. 64 is always one of them, for
        prompts."""
        return sorted({MAX_ROWS, *(min(count, self.chunk(count)) for count in self.sizes)})

    def chunk(self, count: int) -> int:
        """Return the number of rows of each forward in a graph of `count` rows.

        A target in mode exact has forwards of one size only. A draft splits larger steps into
        forwards of 64 rows.
        """
        return min(count, MAX_ROWS) if self.is_whole else self.sizes[0]

    def _plan(self, count: int, limit: int | None) -> AttentionPlan:
        config = self.weights.config
        tails = self.shape.tail_slots
        dtype = self.weights.dtype
        plan = attention_plan(config, dtype, count, self.capacity, tails, limit)
        return replace(
            plan,
            seats=self.shape.seats,
            seat_slots=self.seat_slots,
            architecture=architecture_of(self.device),
        )

    def _products(self, count: int) -> Products:
        return products_of(self.weights, count)

    def _linear_sizes(self) -> LinearWork:
        plans = [plan for each in self.products.values() for plan in each]
        if self.weights.is_packed:
            plans = [plan for count in self.plans for plan in float_plans(self.weights, count)]
        return linear_work(plans, "meta")

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
            plan.add("activations", name, (self.fed[-1], *sizes), dtype)
        plan.add("activations", "angles", (2, MAX_ROWS, c.head_dim // 2), torch.float32)
        most = self.sizes[-1]
        plan.add("logits", "logits", (most, c.columns), torch.float32)
        if dtype != torch.float32 and self.device.type != "cuda":
            plan.add("logits", "raw", (MAX_ROWS, c.columns), dtype)
        if shape.features:
            plan.add("features", "features", (most, FEATURE_LAYERS, c.hidden), dtype)
        for count, plans in self.plans.items():
            for kind, each in enumerate(plans):
                name = f"attention.{count}.{kind}"
                _add_fields(plan, "attention", name, workspace(each, "meta"))
        if self.flash:
            plan.add("prefill", "lengths", (4,), torch.int32)
            plan.reserve("prefill", "flash", reserved_bytes(c, dtype, self.fed[-1], self.device))
        _add_fields(plan, "products", "linear", self._linear_sizes())
        if self.weights.is_packed:
            for name, columns in widest(self.weights).items():
                for part, (sizes_of, kind) in integer_sizes(columns).items():
                    plan.add("products", f"integers.{name}.{part}", sizes_of, kind)
        keeps = shape.scores and self.shapes
        choice = ChoosePlan(most, c.columns, shape.is_draft, self.shapes, keeps=keeps)
        _add_fields(plan, "choice", "choice", choose_work(choice, "meta"))
        return plan

    def lengths(self, rows: int) -> list[Lengths]:
        """Return the Lengths of every kind of layers, for a recording of at most `rows` rows of a
        prompt."""
        scale = scale_of(self.weights.config)
        starts = self.arena["lengths"]
        return [Lengths(starts, rows, self.capacity, limit, scale) for limit in self.limits]

    def sights(self, count: int) -> list[Sight]:
        """Return the plan and the memory of attention of every kind of layers, for `count` rows."""
        return list(map(Sight, self.plans[count], self.works[count]))

    def _workspaces(self, count: int) -> list[Workspace]:
        return [
            Workspace(**{
                name: self.arena[f"attention.{count}.{kind}.{name}"]
                for name in vars(workspace(plan, "meta"))
            })
            for kind, plan in enumerate(self.plans[count])
        ]  # fmt: skip

    def _linear_work(self) -> LinearWork:
        meta = self._linear_sizes()
        return LinearWork(**{name: self.arena[f"linear.{name}"] for name in vars(meta)})

    def integers(self) -> Integers:
        """Return the buffers for activations rounded to int8, which quantised weights need."""
        return Integers(**{
            name: IntegerRows(**{
                part: self.arena[f"integers.{name}.{part}"] for part in integer_sizes(columns)
            })
            for name, columns in widest(self.weights).items()
        })  # fmt: skip

    def _buffers(self) -> Buffers:
        known = {item.name for item in self.memory.items}
        names = ("h", "x", "normed", "qkv", "attended", "gate_up", "gated", "angles")
        names += ("logits", "kv")
        return Buffers(
            **{name: self.arena[name] for name in names},
            raw=self.arena["raw"] if "raw" in known else None,
            features=self.arena["features"] if "features" in known else None,
        )


def _limit_of(kind: LayerKind, max_len: int) -> int | None:
    """Return the number of positions that a row of these layers sees; None: all. A window of
    max_len positions or more hides nothing."""
    return kind.window if kind.window and kind.window < max_len else None


def _sizes(shape: LaneShape, rows: int | None) -> list[int]:
    """Return the numbers of rows for which a lane has graphs, ascending."""
    if not shape.is_draft and rows is None:
        return list(FAST_ROWS)
    if not shape.is_draft:
        assert rows is not None
        return list(range(rows, MAX_ROWS + 1, rows))
    most = min(MAX_STEP_ROWS, -(-shape.max_rows // MAX_ROWS) * MAX_ROWS)
    doubled = [MAX_ROWS << i for i in range(1, 4) if MAX_ROWS << i < 2 * most]
    return [*STEP_ROWS, *doubled]


def _add_fields(
    plan: MemoryPlan, part: str, prefix: str, given: Workspace | ChooseWork | LinearWork
) -> None:
    for name, tensor in vars(given).items():
        plan.add(part, f"{prefix}.{name}", tensor.shape, tensor.dtype)
