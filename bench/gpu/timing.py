"""Times captured graphs on a CUDA device and compares variants: medians, with a cold L2 cache.

A variant is recorded as one graph of many launches. The data of these launches are four times as
large as the L2 cache, so that every launch reads memory. After half a second of warming up, the
variants are replayed in turn. The result of a variant is the median of its replays.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

WARM_SECONDS = 0.5
L2_TIMES = 4  # size of a graph's data, in multiples of the L2 cache


@dataclass(frozen=True)
class Timing:
    """Microseconds of one launch: the median, fastest and slowest replay."""

    us: float
    least: float
    most: float


def copies(bytes_of_one: int, device: torch.device) -> int:
    """Return how many data sets keep the L2 cache cold, at least 8. bytes_of_one: size of one data
    set."""
    l2 = torch.cuda.get_device_properties(device).L2_cache_size
    return max(8, -(-L2_TIMES * l2 // max(1, bytes_of_one)))


def record(launch: Callable[[int], None], launches: int) -> Callable[[], None]:
    """Capture launch(0) .. launch(launches - 1) as one graph. Returns a function that replays it.

    The first two launches run before the capture, so that their kernels are compiled.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for i in (0, min(1, launches - 1)):
            launch(i)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for i in range(launches):
            launch(i)
    return graph.replay


def measure(
    variants: Mapping[str, Callable[[int], None]], launches: int, seconds: float
) -> dict[str, Timing]:
    """Return the time of one launch of each variant. All variants are replayed in turn, for
    `seconds` in total."""
    replays = {name: record(launch, launches) for name, launch in variants.items()}
    _spin(replays, WARM_SECONDS)
    times: dict[str, list[float]] = {name: [] for name in variants}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(next(iter(times.values()))) < 5:
        for name, replay in replays.items():
            times[name].append(_timed(replay) * 1e3 / launches)
    return {n: Timing(statistics.median(t), min(t), max(t)) for n, t in times.items()}


def read_bandwidth(device: torch.device) -> float:
    """Return the device's read bandwidth in bytes/s: the best of 20 runs that sum 2 GiB."""
    x = torch.ones(1 << 29, device=device)
    out = torch.empty((), device=device)
    best = min(_timed(lambda: torch.sum(x, dim=0, out=out)) for _ in range(20))
    return x.numel() * 4 / (best / 1e3)


def product_rate(device: torch.device) -> float:
    """Return the device's FLOP/s for bfloat16: the best of 20 products of 8192 x 8192 matrices."""
    n = 8192
    a, b = torch.randn(2, n, n, device=device, dtype=torch.bfloat16)
    out = torch.empty_like(a)
    best = min(_timed(lambda: torch.mm(a, b, out=out)) for _ in range(20))
    return 2 * n**3 / (best / 1e3)


def _timed(run: Callable[[], object]) -> float:
    """Return the milliseconds that `run` takes on the current stream."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _spin(replays: Mapping[str, Callable[[], None]], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for replay in replays.values():
            replay()
        torch.cuda.synchronize()
