"""Reads the costs of forwards in simulated time. They are given as `c=8`, as a cost file, or as the
name of a cost file that ships with sbrt.

A target forward of `rows` rows costs T(rows), a draft forward t(rows). Nothing else costs time,
unless the file gives costs of a round.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import check
from .._core import MAX_ROWS, Costs
from ..errors import InvalidInputError

UNIT, SECOND = "draft forward", "second"  # units of simulated time
# With c=N, all forwards of at most this number of rows cost the same.
TARGET_ROWS, DRAFT_ROWS = 64, 128
MOST_C = 1000
MOST_US = 1e9  # largest cost of one forward, microseconds

TABLES = ("T", "t", "T_overlapped", "t_overlapped")
ROUNDS = ("round_us", "turns_us", "side_by_side_us")
KEYS = ("about", *TABLES, *ROUNDS, "devices")
DEVICES = ("shared", "separate")
SHIPPED = Path(__file__).parent / "device_costs"  # NAME.json: estimated costs (docs/gpu-costs.md)
MOST_BYTES = 1 << 20  # largest cost file

Cost = Callable[[int], float]  # a function from rows to units of simulated time


@dataclass(frozen=True)
class CostModel:
    """Costs of forwards by number of rows, in `unit`. text: the cost model as the user wrote it.

    round_cost: the host's time, which is added to every round. turns_cost: added to a round whose
    target waits for a burst. side_by_side_cost: added to a round whose burst runs during the
    target's forward. In a round whose lanes overlap, every forward costs its overlapped value.
    """

    text: str
    unit: str
    target: Cost
    draft: Cost
    target_overlapped: Cost
    draft_overlapped: Cost
    round_cost: float = 0.0
    turns_cost: float = 0.0
    side_by_side_cost: float = 0.0

    @property
    def c(self) -> int:
        """The time of a target forward divided by the time of a draft forward, both of one row; at
        least 1."""
        return max(1, round(self.target(1) / self.draft(1)))

    def costs(self) -> Costs:
        """Return the costs in the form that the engine takes, in ns. One unit of this model becomes
        one second of virtual time."""
        return Costs(
            target=_column(self.target),
            draft=_column(self.draft),
            target_overlapped=_column(self.target_overlapped),
            draft_overlapped=_column(self.draft_overlapped),
            round_ns=round(self.round_cost * 1e9),
            turns_ns=round(self.turns_cost * 1e9),
            side_by_side_ns=round(self.side_by_side_cost * 1e9),
        )


def read_costs(text: str, flag: str = "--simulate") -> CostModel:
    """Read `c=N`, a name in `shipped()`, or the path of a cost file. flag: the name that errors
    begin with.

    Raises InvalidInputError, OSError.
    """
    if text.startswith("c="):
        return _ratio(text, flag)
    names = shipped()
    path = SHIPPED / f"{text}.json" if text in names else Path(text)
    if not check.is_file(path):
        raise InvalidInputError(
            f"{flag}: expected c=N, a cost file or one of {', '.join(names)}, got "
            f"{check.show(text)}"
        )
    try:
        given = json.loads(check.read_bytes(path, MOST_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{text}: expected JSON, got {error}") from None
    return cost_model(text, given)


def shipped() -> list[str]:
    """Return the names of the cost files that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def cost_model(name: str, given: Any) -> CostModel:
    """Return the model of a cost file's JSON object; `name` begins every error.

    T, t: {rows: us}. Costs between two given numbers of rows are interpolated linearly. Below the
    smallest given number, the cost is constant. Above the largest, costs follow the line through
    the last two given costs, and are never below 0.
    T_overlapped, t_overlapped: the same costs while the other lane works (default: T, t). devices:
    "separate" means that overlapped costs are not used. round_us: the host's time, which is added
    to every round. turns_us: added to a round whose target waits for a burst. side_by_side_us:
    added to a round whose burst runs during the target's forward. round_us, turns_us and
    side_by_side_us are 0 unless given. about: text that names the source of the costs.
    """
    if not isinstance(given, dict):
        raise InvalidInputError(f"{name}: expected an object, got {check.show(given)}")
    for key in given:
        if key not in KEYS:
            raise InvalidInputError(
                f"{name}: expected keys of {', '.join(KEYS)}, got {check.show(key)}"
            )
    if "about" in given:
        check.text(f"{name}: about", given["about"])
    for key in ("T", "t"):
        if key not in given:
            raise InvalidInputError(f"{name}: expected costs {key}, got none")
    curves = {key: _curve(f"{name}: {key}", given[key]) for key in TABLES if key in given}
    for key in ("T", "t"):
        if curves[key](1) <= 0:
            raise InvalidInputError(f"{name}: {key}: expected a cost above 0 of one row, got 0")
    rounds = [_us(f"{name}: {key}", given.get(key, 0)) for key in ROUNDS]
    shared = check.one_of(f"{name}: devices", given.get("devices", "shared"), DEVICES) == "shared"
    target, draft = curves["T"], curves["t"]
    return CostModel(
        text=name,
        unit=SECOND,
        target=target,
        draft=draft,
        target_overlapped=curves.get("T_overlapped", target) if shared else target,
        draft_overlapped=curves.get("t_overlapped", draft) if shared else draft,
        round_cost=rounds[0],
        turns_cost=rounds[1],
        side_by_side_cost=rounds[2],
    )


def _ratio(text: str, flag: str) -> CostModel:
    """Return the cost model of `c=N`. Its unit is the cost of one draft forward: t(rows) =
    ceil(rows / 128), T(rows) = N ceil(rows / 64)."""
    digits = text.removeprefix("c=")
    if not (digits.isascii() and digits.isdigit() and 1 <= int(digits[:9]) <= MOST_C):
        raise InvalidInputError(
            f"{flag}: expected c=N with N from 1 to {MOST_C}, got {check.show(text)}"
        )
    c = int(digits)

    def target(rows: int) -> float:
        return float(c * math.ceil(rows / TARGET_ROWS))

    def draft(rows: int) -> float:
        return float(math.ceil(rows / DRAFT_ROWS))

    return CostModel(text, UNIT, target, draft, target, draft)


def _curve(name: str, table: Any) -> Cost:
    """Return the function from rows to seconds that the table {rows: us} defines."""
    if not isinstance(table, dict) or not table:
        raise InvalidInputError(f"{name}: expected {{rows: us}}, got {check.show(table)}")
    points = sorted((_rows(name, key), _us(f"{name}({key})", us)) for key, us in table.items())

    def cost(rows: int) -> float:
        at = next((i for i, (known, _) in enumerate(points) if rows <= known), len(points) - 1)
        if at == 0:
            return points[0][1]
        (low, cost_low), (high, cost_high) = points[at - 1 : at + 1]
        return max(0.0, cost_low + (cost_high - cost_low) * (rows - low) / (high - low))

    return cost


def _rows(name: str, key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) <= 9 and key == str(int(key)) != "0"):
        raise InvalidInputError(
            f"{name}: expected rows as a positive integer, got {check.show(key)}"
        )
    return int(key)


def _us(name: str, value: Any) -> float:
    return check.number(name, value, 0, MOST_US) / 1e6


def _column(cost: Cost) -> list[int]:
    return [round(cost(rows) * 1e9) for rows in range(1, MAX_ROWS + 1)]
