"""A stand-in for a CUDA device: engines for `cuda` run on the dry_cuda backend. Their lanes are
recorded on the CPU, and each recording has a handle like a captured graph. The pages of device
memory are protected: the process faults when the host accesses them.

    python tests/gpu/stand_in.py FOLDER run|block|arena    in a process of its own
"""

import ctypes
import itertools
import mmap
import sys
from pathlib import Path

import torch

from sbrt import Engine, EngineConfig, SamplingParams, engine, methods
from sbrt.gpu import lane as lanes
from sbrt.gpu.recorder import Piece, Tape

HANDLE = 0x1000  # handle of the first graph
handles = itertools.count(HANDLE)


class Capture:
    """A recorder for one lane. It gives each tape (a list of recorded ops) a handle, as a captured
    graph has one."""

    def __init__(self, lane, is_eager=False):
        self.lane, self.is_eager, self.tapes, self.rows = lane, is_eager, {}, {}
        self.shut = []  # tensors that only a replayed graph may access

    def record(self, function, rows, scratch=0):
        """See sbrt.gpu.recorder.Recorder."""
        tape, handle = Tape(), next(handles)
        played = {"play": lambda stream: None} if self.is_eager else {}
        function(tape)
        self.tapes[handle], self.rows[handle] = tape, rows

        def replay():
            protect(self.shut, mmap.PROT_READ | mmap.PROT_WRITE)
            tape.replay()
            protect(self.shut, 0)

        return Piece(rows, len(tape.calls), replay, handle, **played)

    def said(self, handle):
        """Return ("forward", "choose" or "moves", rows) of the graph with this handle. For "choose"
        two bools follow: True if the graph supports filters, and if it supports shaping."""
        ops = {op.__name__: given for op, _, given in self.tapes[handle].calls}
        if "choose_torch" in ops:
            plan = ops["choose_torch"]["plan"]
            return "choose", plan.rows, plan.filtered, plan.shaped
        return "moves" if "ring_settle_torch" in ops else "forward", self.rows[handle]


def protect(tensors, how):
    """Call mprotect with `how` on the pages that lie wholly in each tensor."""
    change = ctypes.CDLL(None, use_errno=True).mprotect
    for tensor in tensors:
        memory = tensor.untyped_storage()
        begin = -(-memory.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (memory.data_ptr() + memory.nbytes()) // mmap.PAGESIZE * mmap.PAGESIZE
        assert end > begin
        assert change(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), how) == 0


class StandIn:
    """Replaces the device. captures: the recorders of all lanes that were bound so far; of each
    engine, the target's comes first."""

    def __init__(self, set_attribute):
        self.captures, self.cores, self.devices = [], [], []
        model_of, core = lanes.model_of, engine.EngineCore

        def model(checkpoint, *, device, **more):
            self.devices.append(device)

            def bind(lane):
                lane.recorder = Capture(lane, more["eager"])
                self.captures.append(lane.recorder)

            return model_of(checkpoint, device="cpu", on_bind=bind, **more)

        def dry(*models, backend, **more):
            if backend != "cuda":
                return core(*models, backend=backend, **more)
            self.cores.append((dict(more), core(*models, backend="dry_cuda", **more)))
            return self.cores[-1][1]

        set_attribute(lanes, "model_of", model)
        set_attribute(lanes, "expect_core", lambda device: None)
        set_attribute(engine, "EngineCore", dry)

    def picks(self):
        """Return a pair for each launch by the newest engine: the name of the stream, and what
        `said` returns for the graph that was launched."""
        by_stream = dict(zip(("target", "draft"), self.captures[-2:], strict=False))
        book = self.cores[-1][1].order
        return [(stream, by_stream[stream].said(handle)) for stream, _, handle in book.picks()]


def config_of(folders, device, method="specbranch", draft_device=None, **more):
    """Return the config of an engine over the model folders (target, draft), without a
    tokenizer."""
    return EngineConfig(
        folders[0], skip_tokenizer_init=True, num_threads=2, device=device, dtype="float32",
        speculative={"model": folders[1], "method": method, "device": draft_device}, **more,
    )  # fmt: skip


def main(folder, what):
    """Run a request while the lanes' memory is protected. With `what` "block" or "arena", access
    this memory first, which kills the process."""
    stand_in = StandIn(setattr)
    pair = [Path(folder) / name for name in "td"]
    with Engine(config_of(pair, "cuda")) as made:
        tensors = [c.lane.arena.memory for c in stand_in.captures]
        tensors += [c.lane.weights.embed for c in stand_in.captures]
        for capture in stand_in.captures:
            capture.shut = tensors
        protect(tensors, 0)
        if what == "arena":
            print(float(tensors[0][-1]), float(tensors[0][len(tensors[0]) // 2]))
        if what == "block":
            tape = stand_in.captures[0].tapes[HANDLE]
            print(int(next(x for x in tape.calls[0][1] if x.dtype == torch.int32)[0]))
        params = SamplingParams(temperature=0.8, seed=1, max_tokens=4, repetition_penalty=1.3)
        for method in (None, methods.parse("none")):
            [out] = made.generate([1, 2, 3] * 3, params, method=method)
            assert len(out.outputs[0].token_ids) == 4
        protect(tensors, mmap.PROT_READ | mmap.PROT_WRITE)
    print("ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
