"""Recorders turn a function's calls of ops into a list on the CPU, and into a CUDA graph on a
device. With enforce_eager they make a list on a device, too.

A recording is made once and replayed unchanged: every pointer and scalar is kept by value. Ops read
everything that changes between replays from the sequence and the row tables.
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
# Bytes of torch's cuBLAS workspace per stream: on most devices, and on Hopper.
WORKSPACES = (8_519_680, 33_554_432)


@dataclass(frozen=True)
class Piece:
    """A recording, as csrc/model/recorded.h expects it.

    rows: number of rows that the recording computes. nodes: number of nodes of the graph, or of
    calls if there is no graph. replay: runs the recording.
    graph: address of a cudaGraph_t; 0 if there is no graph. play: enqueues the calls on a given
    cudaStream_t; None for a graph, and on the CPU.
    """

    rows: int
    nodes: int
    replay: Callable[[], None]
    graph: int = 0
    play: Callable[[int], None] | None = None


class Recorder(Protocol):
    """Makes the recordings of one lane."""

    def record(self, function: Recorded, rows: int, scratch: int = 0) -> Piece:
        """Call `function`, and record the calls of ops that it makes. Together these ops may
        allocate `scratch` bytes. Only the op that allocated memory reads it."""


class Tape:
    """A list of calls. It keeps its own view of each tensor, so that later changes to the caller's
    tensor object do not change a recorded call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Op, tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, op: Op, *args: Any, **kwargs: Any) -> None:
        """Keep one call."""
        frozen = {name: _frozen(value) for name, value in kwargs.items()}
        self.calls.append((op, tuple(map(_frozen, args)), frozen))

    def replay(self) -> None:
        """Run all recorded calls, in order."""
        for op, args, kwargs in self.calls:
            op(*args, **kwargs)


class TapeRecorder:
    """Records lists of calls, for the CPU backend."""

    def record(self, function: Recorded, rows: int, scratch: int = 0) -> Piece:
        """Record the calls of ops, as in Recorder.record. Nothing is computed."""
        tape = Tape()
        function(tape)
        return Piece(rows, len(tape.calls), tape.replay)


class CudaRecorder:
    """Captures CUDA graphs on the stream of its lane, with a memory pool of the lane's own.

    stream: the cudaStream_t that will replay the graphs; 0: a new torch stream, for a lane without
    an engine. Two lanes that run at the same time share neither stream nor pool.

    A matrix product uses the cuBLAS workspace of the stream on which it was captured. torch frees
    this workspace when any graph that was captured on the stream is destroyed. So a lane keeps all
    its graphs until its end.
    """

    def __init__(self, device: torch.device, stream: int = 0) -> None:
        expect_device(device)
        self.device = device
        lane = torch.cuda.ExternalStream(stream, device=device) if stream else None
        self.stream = lane or torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self._kept: list[torch.cuda.CUDAGraph] = []

    def record(self, function: Recorded, rows: int, scratch: int = 0) -> Piece:
        """Record the calls of ops, as in Recorder.record. The calls run once before they are
        captured, to compile kernels and initialise libraries."""
        tape = Tape()
        function(tape)
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        with exact_products(), torch.cuda.device(self.device):
            # Wait until new allocations are zeroed.
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                tape.replay()
                self.stream.synchronize()
                with no_collection():
                    self._capture(graph, tape, scratch)
        self._kept.append(graph)
        made = graph.raw_cuda_graph()
        return Piece(rows, nodes_of(made), graph.replay, made)

    def _capture(self, graph: torch.cuda.CUDAGraph, tape: Tape, scratch: int) -> None:
        """Capture the calls on the current stream. torch.cuda.graph is not used, because it waits
        for the whole device."""
        graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
        before = self._allocations()  # must follow capture_begin, which registers torch's generator
        try:
            tape.replay()
            made = self._allocations() - before
        except BaseException:
            with suppress(RuntimeError):  # report the first error, not the error of this call
                graph.capture_end()
            raise
        graph.capture_end()
        if not is_scratch(made, scratch):
            raise EngineError(f"capture: expected at most {scratch} bytes allocated, got {made}")

    def _allocations(self) -> int:
        """Return the number of bytes that torch has allocated since the process began."""
        return int(torch.cuda.memory_stats(self.device)["allocated_bytes.all.allocated"])


class EagerRecorder:
    """Keeps lists of calls that a device runs one by one (EngineConfig.enforce_eager)."""

    def __init__(self, device: torch.device) -> None:
        expect_device(device)
        self.device = device

    def record(self, function: Recorded, rows: int, scratch: int = 0) -> Piece:
        """Record the calls of ops, as in Recorder.record. Nothing is computed. Before it returns,
        all new allocations are zeroed."""
        tape = Tape()
        function(tape)
        torch.cuda.current_stream(self.device).synchronize()

        def play(stream: int) -> None:
            lane = torch.cuda.ExternalStream(stream, device=self.device)
            with exact_products(), torch.cuda.device(self.device), torch.cuda.stream(lane):
                tape.replay()

        return Piece(rows, len(tape.calls), tape.replay, play=play)


def nodes_of(graph: int) -> int:
    """Return the number of nodes of a captured graph. Raises EngineError if the driver fails.

    The driver counts the nodes, because a library may launch more than one kernel for a call.
    """
    count = ctypes.c_size_t()
    driver("cuGraphGetNodes", ctypes.c_void_p(graph), None, ctypes.byref(count))
    return count.value


def driver(call: str, *arguments: object) -> None:
    """Call a function of the CUDA driver. It accepts handles of the CUDA runtime. Raises
    EngineError if the function fails."""
    error = getattr(ctypes.CDLL("libcuda.so.1"), call)(*arguments)
    if error:
        raise EngineError(f"driver: {call} gave error {error}")


def is_scratch(made: int, planned: int) -> bool:
    """True if a capture that allocated `made` bytes stayed within the planned bytes.

    Some releases of torch allocate the cuBLAS workspace inside every capture. So `made` may also
    exceed the plan by the size of this workspace.
    """
    given = os.environ.get("CUBLAS_WORKSPACE_CONFIG", "")
    pairs = re.findall(r":(\d+):(\d+)", given)  # KiB, count
    asked = sum(int(size) * int(count) for size, count in pairs) * 1024
    workspaces = (asked,) if asked else WORKSPACES
    return made <= planned or any(0 <= made - each <= planned for each in workspaces)


@contextmanager
def no_collection() -> Iterator[None]:
    """Switch the cyclic garbage collector off inside this context.

    The collector may destroy an engine that was never closed. This would free device memory, which
    breaks a capture on the same thread.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def exact_products() -> Iterator[None]:
    """Inside this context matrix products use neither TF32 nor half-precision sums."""
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
    """Raise EngineError, one sentence, if torch has no such device."""
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
