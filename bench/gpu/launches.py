"""Compiles the kernels that a recorded lane launches, for a device that this machine lacks.

The lane's own code makes the launches, on tensors of the device `meta`, which have no memory. So
nodes, grids and arguments are the same as in a capture on a real device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from sbrt.errors import EngineError
from sbrt.gpu.lane import GpuLane
from sbrt.gpu.ops import TRITON, Ops
from sbrt.gpu.recorder import Piece, Recorded
from sbrt.gpu.store import LaneShape
from sbrt.gpu.weights import empty_weights
from sbrt.model.config import ModelConfig
from sbrt.triton_kernels import state
from sbrt.triton_kernels.plan import PROGRAMS_PER_MULTIPROCESSOR

from . import sass
from .choice import record_choice

ARCHITECTURE = 90
META = torch.device("meta")
TAILS = 64  # number of slots of a branch's tail in a draft's ring


@dataclass(frozen=True, eq=False)
class Binary:
    """A compiled kernel.

    warps  number of warps of a program
    fit    number of programs that a multiprocessor holds at the same time
    local  bytes of local memory per thread, which hold spilled registers
    found, labels  instructions and labels of the code, as sass.instructions returns them
    """

    warps: int
    fit: int
    local: int
    found: sass.Instructions
    labels: sass.Labels


@dataclass(frozen=True, eq=False)
class Launch:
    """One node of a graph. kernel: the kernel's name without the leading `_` and without `_kernel`.

    programs: number of programs in the grid. arguments: the kernel's arguments by name.
    """

    kernel: str
    programs: int
    arguments: Mapping[str, Any]
    binary: Binary


@dataclass(frozen=True)
class _NoDevice:
    """A driver for Triton that has no device, but an architecture to compile for."""

    architecture: int

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)


class Compiler:
    """Compiles kernels instead of running them, and keeps their launches in order.

    A process can compile for one architecture only, because a kernel caches what it first compiled.
    """

    def __init__(self, architecture: int) -> None:
        self._driver = _NoDevice(architecture)
        if triton.knobs.runtime.interpret:
            raise EngineError("costs: expected Triton's compiler, got TRITON_INTERPRET=1")
        self.launches: list[Launch] = []
        self._binaries: dict[int, tuple[Any, Binary]] = {}  # keys: id() of the compiled kernel

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within this context, launching a kernel compiles it and records the launch, but runs
        nothing."""
        run = JITFunction.run

        def compiled(function: Any, *args: Any, grid: Any, warmup: bool, **given: Any) -> Any:
            kernel = run(function, *args, grid=grid, warmup=True, **given)
            arguments = dict(zip(function.arg_names, args, strict=False)) | given
            self._keep(function.fn.__name__, grid, arguments, kernel)
            return kernel

        driver.set_active(self._driver)  # never restored: without a device there is no other driver
        JITFunction.run = compiled
        try:
            yield
        finally:
            JITFunction.run = run

    def record(self, function: Recorded, rows: int, scratch: int = 0) -> Piece:
        """See sbrt.gpu.recorder.Recorder."""
        before = len(self.launches)
        with self.active():
            function(_call)
        return Piece(rows, len(self.launches) - before, lambda: None)

    def _keep(self, name: str, grid: Any, arguments: dict[str, Any], kernel: Any) -> None:
        programs = 1
        for size in grid:
            programs *= size
        if id(kernel) not in self._binaries:
            self._binaries[id(kernel)] = (kernel, _binary(kernel))
        name = name.strip("_").removesuffix("_kernel")
        self.launches.append(Launch(name, programs, arguments, self._binaries[id(kernel)][1]))


def _call(op: Any, *args: Any, **given: Any) -> None:
    op(*args, **given)


def _binary(kernel: Any) -> Binary:
    cubin, warps = kernel.asm["cubin"], kernel.metadata.num_warps
    registers, local = sass.resources(cubin)
    architecture = kernel.metadata.target.arch
    fit = sass.fitting(warps, registers, kernel.metadata.shared, architecture)
    return Binary(warps, fit, local, *sass.instructions(cubin))


class OfflineLane:
    """A lane with the shapes of a model, in bfloat16, whose tensors have no memory.

    multiprocessors: number of the device's multiprocessors, which decides the grid of attention.
    rows: number of rows of a target's verification graph. storage: int8 or int4 for quantised
    matrices.
    """

    def __init__(
        self,
        config: ModelConfig,
        is_draft: bool,
        rows: int,
        multiprocessors: int,
        ops: Ops = TRITON,
        architecture: int = ARCHITECTURE,
        *,
        storage: str = "bfloat16",
    ) -> None:
        self._compiler = Compiler(architecture)
        shape = LaneShape(
            config.max_positions, state.MAX_STEP_ROWS, int(is_draft), TAILS, False, False
        )
        weights = empty_weights(config, torch.bfloat16, META, storage)
        self._lane = GpuLane(weights, shape, ops, self._compiler, rows, None)
        programs = PROGRAMS_PER_MULTIPROCESSOR * multiprocessors
        for count, plans in self._lane.plans.items():
            self._lane.plans[count] = [replace(plan, programs=programs) for plan in plans]

    @property
    def sizes(self) -> list[int]:
        """Numbers of rows of the graphs that the lane captures."""
        return self._lane.sizes

    def launches(self, rows: int) -> list[Launch]:
        """Return the nodes of a forward of `rows` rows and of the token choice after it.

        The choice gives a token for each row or, in a draft, the row's distribution. The choice is
        greedy and unfiltered.
        """
        self._compiler.launches.clear()
        table = torch.zeros(state.size(state.Batch), dtype=torch.int32, device=META)
        self._lane.record_forward(table, rows, True)
        record_choice(self._lane, table, rows)
        return list(self._compiler.launches)
