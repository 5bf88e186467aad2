"""Makes a cost file from the times of a pair's forwards. These are estimates, or bench.lanes has
measured them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sbrt import check
from sbrt.errors import InvalidInputError
from sbrt.gpu.lane import ROWS as TARGET_ROWS

LEAST_US = 0.1  # us; a shorter measured time is refused

# Microseconds that a round takes in addition to its forwards and token choices. Each op of a round
# runs one warp per seat. The times are estimates from the loops and the compiled code of the ops.
TARGET_OPS = 20.0  # us: make rows, gather, select, attach the chain; a memory fence to the host
LAUNCHES = 12.0  # us: settle, verify and select are three graphs; each takes 4 us to start
DRAFT_OPS = 12.0  # us: settle, plan, and the distributions of the chain's nodes, before a burst
STEP_OPS = 5.0  # us: extend and gather, after a draft step
FENCE = 2.0  # us from one lane's event to the other lane's first kernel
LINK = 10.0  # us: a copy of up to 90 KB to another device, and an event across devices

# Share of the memory bandwidth that two lanes reach together. They do not reach all of it: a kernel
# that fills the device is not preempted, and each lane's thread blocks wait for free registers.
SHARING = 0.9


@dataclass(frozen=True)
class Forward:
    """The time of a forward of `rows` rows and of the token choice after it.

    us: microseconds while the other lane is idle. busy: share of `us` in which the forward uses the
    full memory bandwidth. memory: bytes read. nodes: number of nodes of the CUDA graph. overlapped:
    microseconds while the other lane works; None if this time has to be estimated.
    """

    rows: int
    us: float
    busy: float
    memory: float
    nodes: int
    overlapped: float | None = None


@dataclass(frozen=True)
class Lanes:
    """All forwards of a pair, for the target and for the draft, sorted by the number of rows."""

    target: list[Forward]
    draft: list[Forward]


def cost_file(lanes: Lanes, devices: int, about: str) -> dict[str, Any]:
    """Return the JSON object of a cost file. Its times are in microseconds, rounded to 0.1.
    devices: number of devices of the pair, 1 or 2. about: text at the beginning of the file."""
    target, draft = lanes.target, _with_ops(lanes.draft)
    file: dict[str, Any] = {"about": about, "T": _steps(target), "t": _steps(draft)}
    if devices == 1:
        file["T_overlapped"], file["t_overlapped"] = map(_steps, _overlapped(target, draft))
    link = LINK if devices > 1 else 0.0
    return file | {
        "round_us": TARGET_OPS + LAUNCHES,
        "turns_us": DRAFT_OPS + 2 * (FENCE + link),
        "side_by_side_us": FENCE + link,
        "devices": "shared" if devices == 1 else "separate",
    }


def _overlapped(target: list[Forward], draft: list[Forward]) -> tuple[list[Forward], list[Forward]]:
    """Return the forwards of both lanes, slowed down because the lanes share one memory.

    While both lanes work, they want more bandwidth together than the memory has. Each lane slows
    down by the ratio of the wanted bandwidth to the available bandwidth. A cost file has only one
    time for a forward, which cannot depend on gamma. So the estimate assumes the shortest burst
    that lasts as long as the target's forward. In such a round the target is slowed down all the
    time, and the draft only while the target works.
    """
    whole, step = forward_of(target, 16), forward_of(draft, 16)
    steps = math.ceil(whole.us / step.us)
    while_both = whole.us / (steps * step.us)
    return (
        [_slowed(one, step, 1.0) for one in target],
        [_slowed(one, whole, while_both) for one in draft],
    )


def _slowed(one: Forward, other: Forward, share: float) -> Forward:
    """Return the forward `one`, slowed down by the other lane's forward for `share` of the time.

    A measured overlapped time replaces the estimate.
    """
    if one.overlapped is not None:
        return replace(one, us=one.overlapped)
    slower = max(1.0, (one.busy + other.busy) / SHARING)
    return replace(one, us=one.us * (1 + (slower - 1) * share))


def _with_ops(draft: Sequence[Forward]) -> list[Forward]:
    """Return the draft's forwards. Each time includes the ops that follow a draft step."""
    found = []
    for one in draft:
        both = None if one.overlapped is None else one.overlapped + STEP_OPS
        us = one.us + STEP_OPS
        found.append(replace(one, us=us, busy=one.busy * one.us / us, overlapped=both))
    return found


def forward_of(lane: Sequence[Forward], rows: int) -> Forward:
    """Return the smallest forward with at least `rows` rows, or the largest one if none has as
    many."""
    return next((one for one in lane if one.rows >= rows), lane[-1])


def _steps(lane: Sequence[Forward]) -> dict[str, float]:
    """Return {rows: us}, with two entries per graph: the smallest and the largest number of rows
    that the graph runs.

    A launch takes the smallest graph that holds its rows. If a larger graph is faster, its time is
    used for the smaller graph too, because the larger graph could run in its place.
    """
    found = {}
    least = 1
    for i, one in enumerate(lane):
        us = min(other.us for other in lane[i:])
        found[str(least)] = found[str(one.rows)] = round(us, 1)
        least = one.rows + 1
    return found


def measured(report: Any) -> Lanes:
    """Return the forwards in a report of bench.lanes. Raises InvalidInputError if the report is
    invalid."""
    lines = report.get("lines") if isinstance(report, dict) else None
    if not isinstance(lines, list) or not lines:
        raise InvalidInputError(f"--lanes: expected lines of bench.lanes, got {check.show(report)}")
    found: dict[str, list[Forward]] = {"T": [], "t": []}
    for line in lines:
        lane, one = _measured_line(line)
        if lane == "t" or one.rows in TARGET_ROWS:
            found[lane].append(one)
    for lane, forwards in found.items():
        if not forwards:
            raise InvalidInputError(f"--lanes: expected a line of lane {lane}, got none")
        forwards.sort(key=lambda one: one.rows)
    return Lanes(found["T"], found["t"])


def _measured_line(line: Any) -> tuple[str, Forward]:
    if not isinstance(line, dict):
        raise InvalidInputError(f"--lanes: expected objects as lines, got {check.show(line)}")
    lane = check.one_of("--lanes: lane", line.get("lane"), ("T", "t"))
    rows = check.integer("--lanes: rows", line.get("rows"), 1, 512)
    least = {"us": LEAST_US, "us_overlapped": LEAST_US, "us_choice": 0.0}
    alone, overlapped, choice = (
        check.number(f"--lanes: {key} of {lane}({rows})", line.get(key), low)
        for key, low in least.items()
    )
    return lane, Forward(rows, alone + choice, 0.0, 0.0, 0, overlapped + choice)
