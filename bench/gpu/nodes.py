"""The time of a kernel on a device that is not here, from its bytes and its instructions.

A node of a graph begins a fixed time after the one before it. It then takes

    its chain of dependent accesses
    + the longest of: bytes from memory, bytes from L2, issue slots, one program's own path

Instructions are counted in the compiled code. Loops that matter count as often as they run, and
every other instruction once, also of a branch that is not taken. Nothing here was measured on a
device. `python -m bench.gpu.costs --lanes` replaces all of it by measured times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sbrt.triton_kernels.state import CANDIDATES

from . import sass
from .launches import Binary, Launch


@dataclass(frozen=True)
class Device:
    """Constants of a device.

    multiprocessors
    memory        bytes/s that products read: 0.885 of the peak
    l2            bytes/s from L2 to the multiprocessors
    clock         cycles/s, the lowest under load
    gap           s between the end of a node and the start of the next one in a graph
    """

    name: str
    multiprocessors: int
    memory: float
    l2: float
    clock: float
    gap: float


# H200: 132 multiprocessors and a peak of 4.8 TB/s are of the data sheet. Good kernels read 0.885 of
# a peak. L2 delivers 5.5 to 6 TB/s. Clocks under load are 1.755 to 1.98 GHz. 1.3 us a node is what
# others measured in graphs on an H200.
H200 = Device("h200", 132, 0.885 * 4.8e12, 5.75e12, 1.755e9, 1.3e-6)

SCHEDULERS = 4  # per multiprocessor: each issues an instruction of a warp in a cycle

# Assumptions about latency. An access to L2 takes some 270 cycles on an idle H100, one to memory
# 480; both take about twice as long on a busy one.
L2_ACCESS, MEMORY_ACCESS = 0.25e-6, 0.6e-6
# Last program to arrive: its sums are written, a fence waits for them, an atomic, others' sums are
# read: four accesses and the fence.
ARRIVAL = 1.7e-6
CYCLES = 1.5  # from one instruction of a warp to the next, in code with some independent work
BARRIER = 30  # cycles


@dataclass(frozen=True)
class Work:
    """The work of one kernel after the gap.

    memory, l2  bytes
    chain       s of accesses that wait for one another, in one program
    loops       (loop, times): how often a loop of the compiled code runs in one program
    merged      of this many programs, only the last runs the code that follows the arrival
    """

    memory: float
    l2: float
    chain: float
    loops: Sequence[tuple[range, int]] = ()
    merged: int = 1


@dataclass(frozen=True)
class Node:
    """A kernel's estimate. us: gap included. slots: issue slots of all programs."""

    kernel: str
    us: float
    memory: float
    slots: float
    programs: int
    fit: int


def node_of(launch: Launch, device: Device, context: int) -> Node:
    """The estimate of a launch; `context` tokens of the trunk are read."""
    work, binary = WORK[launch.kernel](launch, context), launch.binary
    count = _times(binary, work)
    arrival = _arrival(binary) if work.merged > 1 else len(count)
    each = sum(count[:arrival]) + sum(count[arrival:]) / work.merged
    path = CYCLES * sum(count) + BARRIER * sum(_of(binary, count, "BAR"))
    waves = math.ceil(launch.programs / (binary.fit * device.multiprocessors))
    busiest = math.ceil(launch.programs / device.multiprocessors)
    longest = max(
        work.memory / device.memory,
        work.l2 / device.l2,
        busiest * each * binary.warps / SCHEDULERS / device.clock,
        waves * path / device.clock,
    )
    us = 1e6 * (device.gap + work.chain + longest)
    slots = launch.programs * each * binary.warps
    return Node(launch.kernel, us, work.memory, slots, launch.programs, binary.fit)


def _times(binary: Binary, work: Work) -> list[int]:
    """The most times that a program runs each instruction."""
    count = [1] * len(binary.found)
    for loop, times in work.loops:
        for i in loop:
            count[i] *= times
    return count


def _arrival(binary: Binary) -> int:
    """The instruction at which a program arrives: the first atomic."""
    return next(i for i, (name, _) in enumerate(binary.found) if name.startswith("ATOMG"))


def _of(binary: Binary, count: Sequence[int], opcode: str) -> list[int]:
    """The counts of an opcode's instructions."""
    pairs = zip(count, binary.found, strict=True)
    return [times for times, (name, _) in pairs if name.startswith(opcode)]


def _linear(launch: Launch, context: int) -> Work:
    """Every program reads its tile of weights from memory and all of x from L2."""
    given = launch.arguments
    weights = given["W"].numel() * given["W"].element_size()
    inputs = given["BLOCK_M"] * given["k"] * given["X"].element_size()
    tiles = launch.programs / given["SPLITS"]
    waits = given["NORM"] and given["BLOCK_M"] > 32  # for sums of squares, before its first weights
    turns = given["HALF"] > 0  # angles and slots are read at the end
    chain = MEMORY_ACCESS + L2_ACCESS * (1 + waits + turns) + ARRIVAL * (given["SPLITS"] > 1)
    loop = sass.product_loop(launch.binary.found, launch.binary.labels)
    loops = [(loop, given["SPLIT_TILES"])]
    return Work(weights, weights + tiles * inputs, chain, loops, given["SPLITS"])


def _integer_linear(launch: Launch, context: int) -> Work:
    """Every program reads its levels, scales and minimums from memory, and all rows from L2."""
    given = launch.arguments
    read = ("W", "Scale", *(["Minimum"] if given["MINIMUMS"] else []))
    weights = sum(_bytes(launch, name) for name in read)
    numbers = 1 + (2 if given["MINIMUMS"] or given["ZERO"] else 0)  # of a row's group, 4 bytes each
    inputs = given["rows"] * given["groups"] * (32 + 4 * numbers)
    loop = sass.product_loop(launch.binary.found, launch.binary.labels)
    turns = math.ceil(given["groups"] / given["TURN"])
    chain = MEMORY_ACCESS + L2_ACCESS * (1 + (given["HALF"] > 0))
    return Work(weights, weights + launch.programs * inputs, chain, [(loop, turns)])


def _round_rows(launch: Launch, context: int) -> Work:
    """The row; the norm's weight; the end."""
    size = launch.arguments["X"].element_size()
    return Work(0, _bytes(launch, "X") * (1 + 1 / size), 3 * L2_ACCESS)


def _attention(launch: Launch, context: int) -> Work:
    """Items of one split each while the span is short, else of FAN; pieces are merged in levels."""
    given = launch.arguments
    splits = context // given["SPLIT"] + 1
    taken = 1 if splits <= given["short"] else given["FAN"]
    units = given["units"]
    pieces = math.ceil(splits / taken)
    turns = math.ceil(units * pieces / launch.programs)
    levels = 0 if pieces == 1 else max(1, math.ceil(math.log(pieces, given["FAN"])))
    one = 2 * given["HEAD_DIM"] * given["K"].element_size()  # a key and its value, in one KV head
    read = units * context * one
    loop = sass.product_loop(launch.binary.found, launch.binary.labels)
    tiles = turns * taken * given["SPLIT"] // given["BLOCK_N"]
    # The schedule; the member; rows and leaders; the leader's count; its slots; the end. Then the
    # first keys.
    chain = 6 * L2_ACCESS + turns * MEMORY_ACCESS + levels * ARRIVAL
    merged = min(pieces, given["FAN"])
    return Work(read * given["kv_heads"] / units, read, chain, [(loop, tiles)], merged)


def _choose(launch: Launch, context: int) -> Work:
    """Picks of a chunk and then, of distributions, of the merge."""
    given = launch.arguments
    logits = given["Logits"].numel() * given["Logits"].element_size()
    times = [given["PICKS"], *([CANDIDATES] if given["DISTS"] else [])]
    found = sass.loops(launch.binary.found, launch.binary.labels)
    if len(found) < len(times):
        raise ValueError(f"choose: expected {len(times)} loops of picks but got {len(found)}")
    chain = 3 * L2_ACCESS + ARRIVAL
    return Work(0, logits, chain, list(zip(found, times, strict=False)), given["SPLITS"])


def _rope(launch: Launch, context: int) -> Work:
    """The row; its slot and position; its numbers; their frequencies; the end."""
    return Work(0, 2 * _bytes(launch, "QKV"), 5 * L2_ACCESS)


def _embed(launch: Launch, context: int) -> Work:
    """The token; its row of the matrix; the end."""
    return Work(_bytes(launch, "Out"), 0, 2 * L2_ACCESS + MEMORY_ACCESS)


def _see(launch: Launch, context: int) -> Work:
    """The number of rows; the rows; the end."""
    return Work(0, 0, 3 * L2_ACCESS)


def _bytes(launch: Launch, name: str) -> int:
    tensor = launch.arguments[name]
    return int(tensor.numel() * tensor.element_size())


WORK: dict[str, Callable[[Launch, int], Work]] = {
    "linear": _linear,
    "integer_linear": _integer_linear,
    "round_rows": _round_rows,
    "branch_attention": _attention,
    "choose": _choose,
    "rope_kv_write": _rope,
    "embed": _embed,
    "see": _see,
}
