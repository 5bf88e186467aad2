"""What records: a function's calls of ops, as a list on the CPU, as a CUDA graph on a device; there
as a list too, for whoever wants no graphs.

A recording is made once and replayed as it is: every pointer and scalar by value. What changes
between replays is read by the ops from the sequence and the row tables.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..errors import EngineError
from .ops import Op, Run

Recorded = Callable[[Run], None]
WORKSPACES = (8_519_680, 33_554_432)  # bytes that torch gives cuBLAS on a stream, by architecture


@dataclass(frozen=True)
class Piece:
    """A recording, as csrc/model/recorded.h knows it.

    rows: that it computes. nodes: calls, or nodes of the graph. replay: runs it here. graph: the
    address of a cudaGraph_t, 0 if there is none. play: enqueues the calls on a cudaStream_t of a
    device; None where they are captured, and on the CPU.
    """

    rows: int
    nodes: int
    replay: Callable[[], None]
    graph: int = 0
    play: Callable[[int], None] | None = None


class Recorder(Protocol):
    """Makes pieces of one lane."""

    def record(self, function: Recorded, rows: int, scratch: int = 0) -> Piece:
        """The piece that `function` is when it is called now. Its calls together may allocate so
        many bytes of scratch, which nobody reads behind the call that did."""


class Tape:
    """A list of calls; tensors are kept as views of their own, so that no name can move them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Op, tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, op: Op, *args: Any, **kwargs: Any) -> None:
        """Keep one call."""
        frozen = {name: _frozen(value) for name, value in kwargs.items()}
        self.calls.append((op, tuple(map(_frozen, args)), frozen))

    def replay(self) -> None:
        """Run all of them, in order."""
        for op, args, kwargs in self.calls:
            op(*args, **kwargs)


class TapeRecorder:
    """Records lists of calls, for the CPU body."""

    def record(self, function: Recorded, rows: int, scratch: int = 0) -> Piece:
        """See Recorder. Nothing is computed."""
        tape = Tape()
        function(tape)
        return Piece(rows, len(tape.calls), tape.replay)


class CudaRecorder:
    """Captures CUDA graphs on its lane's stream and in a pool of the lane's own.

    stream: the cudaStream_t that will replay them; 0: a stream of torch's, for a lane that no
    engine runs. Two lanes that run at the same time share neither: the workspace of a matrix
    product belongs to the stream that it was captured on. torch frees that workspace with any of
    the graphs captured there, so all graphs of a lane are kept until the lane goes.
    """

    def __init__(self, device: torch.device, stream: int = 0) -> None:
        expect_device(device)
        self.device = device
        lane = torch.cuda.ExternalStream(stream, device=device) if stream else None
        self.stream = lane or torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self._kept: list[torch.cuda.CUDAGraph] = []

    def record(self, function: Recorded, rows: int, scratch: int = 0) -> Piece:
        """See Recorder. Runs it once before, so that kernels are compiled and libraries ready."""
        tape = Tape()
        function(tape)
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        with exact_products(), torch.cuda.device(self.device):
            self.stream.wait_stream(
                torch.cuda.current_stream()
            )  # what was just allocated is zeroed
            with torch.cuda.stream(self.stream):
                tape.replay()
                self.stream.synchronize()
                with no_collection():
                    self._capture(graph, tape, scratch)
        self._kept.append(graph)
        made = graph.raw_cuda_graph()
        return Piece(rows, nodes_of(made), graph.replay, made)

    def _capture(self, graph: torch.cuda.CUDAGraph, tape: Tape, scratch: int) -> None:
        """On the current stream. Not torch.cuda.graph, which waits for the whole device."""
        graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
        before = self._allocations()  # not earlier: the first capture registers torch's generator
        try:
            tape.replay()
            made = self._allocations() - before
        except BaseException:
            with suppress(RuntimeError):  # what went wrong says more
                graph.capture_end()
            raise
        graph.capture_end()
        if not is_scratch(made, scratch):
            raise EngineError(f"capture: expected at most {scratch} bytes allocated, got {made}")

    def _allocations(self) -> int:
        """Bytes, ever."""
        return int(torch.cuda.memory_stats(self.device)["allocated_bytes.all.allocated"])


class EagerRecorder:
    """Keeps lists of calls that a device runs one by one (EngineConfig.enforce_eager)."""

    def __init__(self, device: torch.device) -> None:
        expect_device(device)
        self.device = device

    def record(self, function: Recorded, rows: int, scratch: int = 0) -> Piece:
        """See Recorder. Nothing is computed; what was just allocated is zeroed."""
        tape = Tape()
        function(tape)
        torch.cuda.current_stream(self.device).synchronize()

        def play(stream: int) -> None:
            lane = torch.cuda.ExternalStream(stream, device=self.device)
            with exact_products(), torch.cuda.device(self.device), torch.cuda.stream(lane):
                tape.replay()

        return Piece(rows, len(tape.calls), tape.replay, play=play)


def nodes_of(graph: int) -> int:
    """Nodes of a captured graph, as the driver counts them: a library may launch more than one
    kernel for a call. Raises EngineError."""
    count = ctypes.c_size_t()
    driver("cuGraphGetNodes", ctypes.c_void_p(graph), None, ctypes.byref(count))
    return count.value


def driver(call: str, *arguments: object) -> None:
    """A call of the CUDA driver, whose handles are those of the runtime. Raises EngineError."""
    error = getattr(ctypes.CDLL("libcuda.so.1"), call)(*arguments)
    if error:
        raise EngineError(f"driver: {call} gave error {error}")


def is_scratch(made: int, planned: int) -> bool:
    """Whether a capture that allocated `made` bytes took what was planned. Some releases of torch
    allocate the workspace of cuBLAS inside every capture: that, exactly, may come on top."""
    given = os.environ.get("CUBLAS_WORKSPACE_CONFIG", "")
    pairs = re.findall(r":(\d+):(\d+)", given)  # KiB, count
    asked = sum(int(size) * int(count) for size, count in pairs) * 1024
    workspaces = (asked,) if asked else WORKSPACES
    return made <= planned or any(0 <= made - each <= planned for each in workspaces)


@contextmanager
def no_collection() -> Iterator[None]:
    """Without the cyclic collector. It may destroy an engine that nobody closed, and the calls that
    free a device's memory break a capture of the same thread."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def exact_products() -> Iterator[None]:
    """Matrix products without TF32 and without sums in half precision; restored afterwards."""
    product = torch.backends.cuda.matmul
    names = (
        "allow_tf32",
        "allow_fp16_reduced_precision_reduction",
        "allow_bf16_reduced_precision_reduction",
    )
    before = {name: getattr(product, name) for name in names}
    try:
        for name in names:
            setattr(product, name, False)
        if any(getattr(product, name) for name in names):
            raise EngineError("capture: expected TF32 and reduced precision off, they stayed on")
        yield
    finally:
        for name, value in before.items():
            setattr(product, name, value)


def expect_device(device: torch.device) -> None:
    """Raises EngineError, one sentence, where torch has no such device."""
    if not torch.cuda.is_available():
        raise EngineError(
            "device: expected a CUDA device that torch can use, found none "
            f"(torch {torch.__version__})"
        )
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise EngineError(f"device: expected cuda:0 to cuda:{count - 1}, got {device}")


def _frozen(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value
