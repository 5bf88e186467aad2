"""A cost file from the times of a pair's forwards, estimated or measured by bench.lanes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sbrt import check
from sbrt.errors import InvalidInputError
from sbrt.gpu.lane import ROWS as TARGET_ROWS

LEAST_US = 0.1  # a shorter forward is no measurement

# us that a round costs in addition to forwards and choices. The ops of a round have one warp for
# each seat: these are estimates from their loops and their compiled code.
TARGET_OPS = 20.0  # rows, gather, select, attach the chain, with a fence to the host's memory
LAUNCHES = 12.0  # settle, verify and select are three graphs: three beginnings of 4 us
DRAFT_OPS = 12.0  # settle, plan and the distributions of the chain, before a burst
STEP_OPS = 5.0  # extend and gather after a step
FENCE = 2.0  # from one lane's record to the other lane's first kernel
LINK = 10.0  # a copy of up to 90 KB to another device, and an event across devices

# Share of the memory's rate that two lanes reach together: a kernel that fills the device is not
# preempted, and blocks of both lanes wait for each other's registers.
SHARING = 0.9


@dataclass(frozen=True)
class Forward:
    """A forward and its choice. us; busy: share of this time in which memory is read at full rate.

    overlapped: us while the other lane works; None: to be estimated.
    """

    rows: int
    us: float
    busy: float
    memory: float
    nodes: int
    overlapped: float | None = None


@dataclass(frozen=True)
class Lanes:
    """All forwards of a pair: of the target and of the draft, by ascending rows."""

    target: list[Forward]
    draft: list[Forward]


def cost_file(lanes: Lanes, devices: int, about: str) -> dict[str, Any]:
    """The object of a cost file of lanes on one device or two, us to a tenth."""
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
    """Both lanes while they share one memory.

    Together they are slowed down by the share by which their demands exceed what the memory gives.
    That holds as long as both work. A cost file has one figure for a forward of a lane, whatever
    gamma is. So it is that of the shortest burst which lasts as long as the target's forward: the
    target is slowed down all the time, the draft while the target works.
    """
    whole, step = forward_of(target, 16), forward_of(draft, 16)
    steps = math.ceil(whole.us / step.us)
    while_both = whole.us / (steps * step.us)
    return (
        [_slowed(one, step, 1.0) for one in target],
        [_slowed(one, whole, while_both) for one in draft],
    )


def _slowed(one: Forward, other: Forward, share: float) -> Forward:
    """A forward that the other lane's forwards slow down for this share of its time."""
    if one.overlapped is not None:
        return replace(one, us=one.overlapped)
    slower = max(1.0, (one.busy + other.busy) / SHARING)
    return replace(one, us=one.us * (1 + (slower - 1) * share))


def _with_ops(draft: Sequence[Forward]) -> list[Forward]:
    """The same steps with what follows each of them."""
    found = []
    for one in draft:
        both = None if one.overlapped is None else one.overlapped + STEP_OPS
        us = one.us + STEP_OPS
        found.append(replace(one, us=us, busy=one.busy * one.us / us, overlapped=both))
    return found


def forward_of(lane: Sequence[Forward], rows: int) -> Forward:
    """The smallest forward that holds the rows; the largest if none does."""
    return next((one for one in lane if one.rows >= rows), lane[-1])


def _steps(lane: Sequence[Forward]) -> dict[str, float]:
    """Rows -> us: a launch takes the smallest graph that holds the rows."""
    found = {}
    least = 1
    for one in lane:
        found[str(least)] = found[str(one.rows)] = round(one.us, 1)
        least = one.rows + 1
    return found


def measured(report: Any) -> Lanes:
    """Forwards from the JSON of bench.lanes. Raises InvalidInputError."""
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
