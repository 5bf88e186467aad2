"""The two lanes that bench.lanes measures, alone and overlapped. Their weights are random."""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from sbrt.gpu.lane import ROWS, GpuLane
from sbrt.gpu.ops import TRITON
from sbrt.gpu.prefill import flash_for
from sbrt.gpu.recorder import CudaRecorder, Piece, driver
from sbrt.gpu.store import LaneShape
from sbrt.gpu.weights import random_weights
from sbrt.model.config import ModelConfig
from sbrt.triton_kernels import state

from ..gpu import timing
from ..gpu.choice import record_choice

# Numbers of rows of the target's graphs to measure. Engines replay only graphs of ROWS, even for
# `none`. The bench adds a graph of one row.
VERIFIED = (1, *ROWS)
WARM, LEAST = 5, 10  # number of warm-up replays; smallest number of timed replays
URGENT = -1  # priority of an urgent stream; others have 0
# Number of rows of the other lane's forwards while a lane is measured.
OTHER_ROWS = 16


Launch = Callable[[torch.cuda.Stream], None]


def launcher(piece: Piece) -> Launch:
    """Return a function that launches a captured graph as `EngineCore` does.

    torch's own replay would add kernels before the graph.
    """
    made = ctypes.c_void_p()
    driver(
        "cuGraphInstantiateWithFlags", ctypes.byref(made), ctypes.c_void_p(piece.graph),
        ctypes.c_ulonglong(0),
    )  # fmt: skip
    return lambda stream: driver("cuGraphLaunch", made, ctypes.c_void_p(stream.cuda_stream))


class Bench:
    """A target and a draft with their recorded forwards.

    products: "fused" or "cublas". verified: numbers of rows of the target's graphs. storage: format
    of the matrices.
    """

    def __init__(
        self,
        target: ModelConfig,
        draft: ModelConfig,
        context: int,
        products: str = "fused",
        verified: Sequence[int] = VERIFIED,
        storage: str = "bfloat16",
    ) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.bandwidth = timing.read_bandwidth(self.device)
        self.products = timing.product_rate(self.device)
        ops = replace(TRITON, fused=products == "fused")
        self._configs = {"T": target, "t": draft}
        self._lanes: dict[str, list[GpuLane]] = {"T": [], "t": []}
        self._pieces: dict[tuple[str, int], Piece] = {}
        self._launches: dict[tuple[str, int], Launch] = {}
        self._choices: dict[tuple[str, int], Launch] = {}
        self._feeds: dict[tuple[str, int], Launch] = {}
        self._tables: list[torch.Tensor] = []
        self._alone_us: dict[str, float] = {}
        for name, config in self._configs.items():
            weights = random_weights(config, torch.bfloat16, self.device, storage=storage)
            attention = "triton" if weights.is_packed else "auto"
            flash = flash_for(attention, self.device, torch.bfloat16, config.head_dim)
            for rows in verified if name == "T" else (64,):
                shape = LaneShape(config.max_positions, 64, int(name == "t"), 1, False, False)
                lane = GpuLane(weights, shape, ops, CudaRecorder(self.device), rows, None, flash)
                self._lanes[name].append(lane)
                self._record(name, lane, context)
            self._record_feeds(name, self._lanes[name][-1], context)

    def _record(self, name: str, lane: GpuLane, context: int) -> None:
        for rows in lane.sizes if name == "t" else lane.sizes[:1]:
            table = state.words(path_table(lane, rows, context), self.device)
            self._tables.append(table)
            piece = self._pieces[name, rows] = lane.record_forward(table, rows, True)
            self._launches[name, rows] = launcher(piece)
            choice, kept = record_choice(lane, table, rows)
            self._choices[name, rows] = launcher(choice)
            self._tables += kept

    def _record_feeds(self, name: str, lane: GpuLane, context: int) -> None:
        for rows in lane.fed:
            # so that no row wraps around the end of the ring
            head = min(context, lane.capacity - rows)
            table = state.words(path_table(lane, rows, head), self.device)
            self._tables.append(table)
            few = rows <= state.MAX_ROWS
            piece = lane.record_forward(table, rows, False) if few else None
            self._feeds[name, rows] = launcher(piece or lane.record_prefill(table, rows))

    def config(self, lane: str) -> ModelConfig:
        """Return the config of a lane: "T" is the target, "t" the draft."""
        return self._configs[lane]

    def graphs(self) -> Iterator[tuple[str, int]]:
        """Yield (lane, rows) of every forward to measure."""
        yield from sorted(self._pieces)

    def feeds(self) -> Iterator[tuple[str, int]]:
        """Yield (lane, rows) of every prompt piece to measure."""
        yield from sorted(self._feeds)

    def feed_line(self, lane: str, rows: int, seconds: float) -> dict[str, Any]:
        """Return the time in us and the tokens/s of one prompt piece that follows the context."""
        times = self._times(self._feeds[lane, rows], 0, None, seconds / 3)
        us = statistics.median(times)
        return {"lane": lane, "rows": rows, "us": us, "spread": [min(times), max(times)],
                "tokens_per_s": rows / us * 1e6}  # fmt: skip

    def line(self, lane: str, rows: int, seconds: float) -> dict[str, Any]:
        """Return the times of one graph in us.

        us: the graph runs alone. us_overlapped: the other lane works meanwhile, and the draft's
        stream has the higher priority, as in engines. us_overlapped_target_first: the other lane
        works meanwhile, and the target's stream has the higher priority. us_choice: only the token
        choice after the forward runs.
        """
        piece, launch = self._pieces[lane, rows], self._launches[lane, rows]
        name = "t" if lane == "T" else "T"
        other = self._launches[name, OTHER_ROWS]
        alone = self._times(launch, 0, None, seconds / 3)
        us = statistics.median(alone)
        choice = statistics.median(self._times(self._choices[lane, rows], 0, None, 0))
        # The other lane's launches must last longer than two launches of this lane.
        times = 2 + math.ceil(4 * us / self._alone(name, other))
        overlapped = [
            statistics.median(self._times(launch, priority, (other, times), seconds / 3))
            for priority in (URGENT * (lane == "t"), URGENT * (lane == "T"))
        ]
        return {
            "lane": lane,
            "rows": rows,
            "us": us,
            "spread": [min(alone), max(alone)],
            "us_overlapped": overlapped[0],
            "us_overlapped_target_first": overlapped[1],
            "us_choice": choice,
            "nodes": piece.nodes,
            "nodes_per_layer": piece.nodes / self._configs[lane].layers,
        }

    def _alone(self, lane: str, launch: Launch) -> float:
        """Return the us of a lane's graph when it runs alone. Only the first call for a lane
        measures this time."""
        if lane not in self._alone_us:
            self._alone_us[lane] = statistics.median(self._times(launch, 0, None, 0))
        return self._alone_us[lane]

    def _times(
        self, launch: Launch, priority: int, other: tuple[Launch, int] | None, seconds: float
    ) -> list[float]:
        """Launch a graph repeatedly for `seconds`, and return the microseconds of each launch.

        priority: priority of the measured stream. If it is urgent, the other lane's stream is not,
        and vice versa. other: the launch of the other lane's graph, and the number of its launches
        before each measurement. These launches run until after the measured launch has ended. The
        clock starts after an earlier launch of the same graph. So the host has enqueued the
        measured launch before the device gets to it.
        """
        mine = torch.cuda.Stream(self.device, priority)
        its = torch.cuda.Stream(self.device, URGENT - priority)
        found: list[float] = []
        end = time.monotonic() + seconds
        while len(found) < LEAST + WARM or time.monotonic() < end:
            if other is not None:
                for _ in range(other[1]):
                    other[0](its)
            begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            launch(mine)
            begun.record(mine)
            launch(mine)
            done.record(mine)
            done.synchronize()
            found.append(begun.elapsed_time(done) * 1e3)
            its.synchronize()
        return found[WARM:]

    def describe(self) -> str:
        """Return sentences that describe the memory of every lane."""
        return "\n".join(lane.describe() for lanes in self._lanes.values() for lane in lanes)

    def environment(self) -> dict[str, Any]:
        """Return the device, torch's version, and the measured read bandwidth and product rate."""
        return {
            "device": torch.cuda.get_device_name(self.device),
            "torch": torch.__version__,
            "read_bandwidth_gb_per_s": self.bandwidth / 1e9,
            "products_tflop_per_s": self.products / 1e12,
        }


def path_table(lane: GpuLane, rows: int, head: int) -> state.Batch:
    """Return the row table of a path of `rows` rows after a trunk of `head` tokens."""
    table = state.Batch(head=(head,), n=rows)
    for i in range(rows):
        row = table.row[i]
        row.position, row.token, row.branch = head + i, i, -1
        row.slot = (head + i) % lane.capacity
        row.chain = state.mask_of((2 << min(i, state.SLOTS - 1)) - 1)
    return table
