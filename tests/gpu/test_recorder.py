"""Contract under test: the recorder for a device, tested without a device. A capture that allocates
more than its planned scratch memory is refused. Memory that torch allocates when a capture begins,
and cuBLAS's workspace, do not count. A capture runs on the lane's own stream, and no garbage is
collected during it. Without graphs, the recorder stores calls, and makes
them on the given stream when a recorded op runs."""

import gc
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from sbrt import EngineError
from sbrt.gpu import recorder
from sbrt.gpu.recorder import CudaRecorder, EagerRecorder, Tape


class Graph:
    """A stand-in for a graph. torch allocates when the capture begins, as it does in the first
    capture of a process."""

    def __init__(self, count):
        self.count, self.said = count, []

    def capture_begin(self, **given):
        self.count[0] += 2
        self.said.append(("begin", given["capture_error_mode"]))

    def capture_end(self):
        self.said.append("end")


@pytest.fixture
def count(monkeypatch):
    """Return a list with one number, the bytes that torch has allocated so far."""
    found = [7]
    monkeypatch.setattr(
        torch.cuda, "memory_stats", lambda device: {"allocated_bytes.all.allocated": found[0]}
    )
    return found


def captured(count, *ops, scratch=0):
    made = object.__new__(CudaRecorder)
    made.device, made.pool = torch.device("cuda", 0), (0, 1)
    tape, graph = Tape(), Graph(count)
    for op in ops:
        tape(op)
    try:
        made._capture(graph, tape, scratch)
    finally:
        assert graph.said == [("begin", "thread_local"), "end"]


def test_what_torch_allocates_as_it_begins_is_not_the_capture_s(count):
    captured(count, lambda: None)


def test_a_capture_that_allocates_is_refused(count):
    def allocates():
        count[0] += 3

    with pytest.raises(EngineError, match=r"^capture: expected at most 0 bytes .*, got 3$"):
        captured(count, allocates)


def test_calls_may_allocate_the_scratch_that_was_planned(count):
    def allocates():
        count[0] += 3

    captured(count, allocates, allocates, scratch=6)
    with pytest.raises(EngineError, match="at most 5 bytes allocated, got 6"):
        captured(count, allocates, allocates, scratch=5)


@pytest.mark.parametrize("workspace", [8_519_680, 33_554_432])
def test_a_workspace_may_come_on_top_of_the_scratch(count, monkeypatch, workspace):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def allocates(more):
        count[0] += workspace + more

    captured(count, lambda: allocates(0))
    captured(count, lambda: allocates(6), scratch=6)
    for wrong in (-1, 7):
        with pytest.raises(EngineError, match="at most 6 bytes allocated"):
            captured(count, lambda by=wrong: allocates(by), scratch=6)


def test_a_workspace_is_as_large_as_the_environment_says(count, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8:4:2")

    def allocates(bytes):
        count[0] += bytes

    captured(count, lambda: allocates((16 * 8 + 4 * 2) * 1024))
    with pytest.raises(EngineError, match="at most 0 bytes"):
        captured(count, lambda: allocates(8_519_680))


def test_nothing_is_collected_during_a_capture(monkeypatch):
    """No garbage is collected during a capture. A collection may free the memory of another engine,
    which would break the capture."""
    events = []

    class Graph:
        def __init__(self, keep_graph):
            events.append(("made", gc.isenabled()))

        def capture_begin(self, **given):
            events.append(("begin", gc.isenabled()))

        def capture_end(self):
            events.append(("end", gc.isenabled()))

        def raw_cuda_graph(self):
            return 0x1000

        def replay(self): ...

    stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
    fakes = {
        "CUDAGraph": Graph,
        "current_stream": lambda: None,
        "ExternalStream": lambda handle, device: events.append(("stream", handle)) or stream,
        "graph_pool_handle": lambda: (0, 1),
        "memory_stats": lambda device: {"allocated_bytes.all.allocated": 0},
        "device": lambda device: nullcontext(),
        "stream": lambda stream: nullcontext(),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(recorder, "expect_device", lambda device: None)
    monkeypatch.setattr(recorder, "nodes_of", lambda graph: 3)
    made = CudaRecorder(torch.device("cuda", 0), 0x5EA)
    assert gc.isenabled()
    piece = made.record(lambda run: run(lambda: None), 16)
    assert (piece.graph, piece.nodes) == (0x1000, 3)
    assert gc.isenabled()
    # The capture is on the lane's own stream, 0x5EA.
    assert events == [("stream", 0x5EA), ("made", True), ("begin", False), ("end", False)]


def test_a_capture_that_fails_ends_and_says_why(count):
    def fails():
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        captured(count, fails)


def test_without_graphs_calls_are_made_when_they_are_played(monkeypatch):
    said = []
    monkeypatch.setattr(recorder, "expect_device", lambda device: None)
    fakes = {
        "current_stream": lambda device: SimpleNamespace(synchronize=lambda: said.append("wait")),
        "ExternalStream": lambda handle, device: handle,
        "device": lambda device: nullcontext(),
        "stream": lambda stream: nullcontext(said.append(stream)),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    made = EagerRecorder(torch.device("cuda", 0))
    piece = made.record(lambda run: [run(said.append, i) for i in range(3)], 16)
    assert said == ["wait"]  # record() waited until the memory was zeroed
    assert (piece.rows, piece.nodes, piece.graph) == (16, 3, 0)
    piece.play(0x5EA)
    piece.play(0x5EB)
    assert said == ["wait", 0x5EA, 0, 1, 2, 0x5EB, 0, 1, 2]


def test_a_driver_that_says_no_is_one_sentence(monkeypatch):
    driver = SimpleNamespace(cuGraphGetNodes=lambda *_: 400)
    monkeypatch.setattr(recorder.ctypes, "CDLL", lambda name: driver)
    with pytest.raises(EngineError, match=r"^driver: cuGraphGetNodes gave error 400$"):
        recorder.nodes_of(0x1000)
