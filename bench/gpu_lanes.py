"""What bench.lanes measures with: two lanes of random weights on a device, alone and overlapped."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from sbrt.gpu.lane import ROWS, GpuLane
from sbrt.gpu.ops import TRITON
from sbrt.gpu.recorder import CudaRecorder, Piece
from sbrt.gpu.store import LaneShape
from sbrt.gpu.weights import random_weights
from sbrt.model_config import ModelConfig
from sbrt.triton_kernels import control

from . import gpu_timing

VERIFIED = (1, *ROWS)  # rows of a target: `none` replays those of ROWS; 1 is what that costs it
WARM, LEAST = 5, 10  # replays
BESIDE = {"T": 16, "t": 16}  # rows of the other lane while one is measured


class Bench:
    """A target and a draft, a row table each, and their recorded forwards."""

    def __init__(
        self, target: ModelConfig, draft: ModelConfig, context: int, products: str = "fused"
    ) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.bandwidth = gpu_timing.read_bandwidth(self.device)
        ops = replace(TRITON, fused=products == "fused")
        self._configs = {"T": target, "t": draft}
        self._lanes: dict[str, list[GpuLane]] = {"T": [], "t": []}
        self._pieces: dict[tuple[str, int], Piece] = {}
        self._tables: list[torch.Tensor] = []
        for name, config in self._configs.items():
            weights = random_weights(config, torch.bfloat16, self.device)
            for rows in VERIFIED if name == "T" else (64,):
                shape = LaneShape(config.max_positions, 64, int(name == "t"), 1, False, False)
                lane = GpuLane(weights, shape, ops, CudaRecorder(self.device), rows, None)
                self._lanes[name].append(lane)
                self._record(name, lane, context)

    def _record(self, name: str, lane: GpuLane, context: int) -> None:
        for rows in lane.sizes if name == "t" else lane.sizes[:1]:
            table = control.words(path_table(lane, rows, context), self.device)
            self._tables.append(table)
            self._pieces[name, rows] = lane.record_forward(table, rows, True)

    def config(self, lane: str) -> ModelConfig:
        """Of "T", the target, or "t", the draft."""
        return self._configs[lane]

    def graphs(self) -> Iterator[tuple[str, int]]:
        """(lane, rows) of everything to measure."""
        yield from sorted(self._pieces)

    def line(self, lane: str, rows: int, seconds: float) -> dict[str, Any]:
        """Microseconds of one graph, alone and beside the other lane."""
        piece = self._pieces[lane, rows]
        other = "t" if lane == "T" else "T"
        alone = self._times(piece, None, seconds / 2)
        beside = self._times(piece, self._pieces[other, BESIDE[other]], seconds / 2)
        return {
            "lane": lane,
            "rows": rows,
            "us": statistics.median(alone),
            "spread": [min(alone), max(alone)],
            "us_overlapped": statistics.median(beside),
            "nodes": piece.nodes,
        }

    def _times(self, piece: Piece, beside: Piece | None, seconds: float) -> list[float]:
        """Microseconds of replays; `beside` is kept at work on another stream meanwhile."""
        mine, its = (torch.cuda.Stream(self.device) for _ in range(2))
        found: list[float] = []
        end = time.monotonic() + seconds
        while len(found) < LEAST + WARM or time.monotonic() < end:
            if beside is not None:
                with torch.cuda.stream(its):
                    for _ in range(3):
                        beside.replay()
            with torch.cuda.stream(mine):
                begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begun.record()
                piece.replay()
                done.record()
            done.synchronize()
            found.append(begun.elapsed_time(done) * 1e3)
            its.synchronize()
        return found[WARM:]

    def describe(self) -> str:
        """Memory of every lane."""
        return "\n".join(lane.describe() for lanes in self._lanes.values() for lane in lanes)

    def environment(self) -> dict[str, Any]:
        """The device and what it reads a second."""
        return {
            "device": torch.cuda.get_device_name(self.device),
            "torch": torch.__version__,
            "read_bandwidth_gb_per_s": self.bandwidth / 1e9,
        }


def path_table(lane: GpuLane, rows: int, head: int) -> control.RowTable:
    """`rows` rows of a path behind a trunk of `head` tokens."""
    table = control.RowTable(head=head, n=rows)
    for i in range(rows):
        row = table.row[i]
        row.position, row.token, row.branch = head + i, i, -1
        row.slot = (head + i) % lane.capacity
        row.chain = control.mask_of((2 << i) - 1)
    return table
