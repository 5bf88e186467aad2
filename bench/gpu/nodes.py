"""Estimates a kernel's time on a device that this machine lacks, from bytes and instructions.

A node of a graph begins a fixed time after the end of the node before it. The node then takes

    its chain of dependent accesses
    + the longest of: bytes from memory, bytes from L2, issue slots, one program's own path

Instructions are counted in the compiled code. An instruction of a loop in Work.loops counts as
often as the loop runs. Every other instruction counts once, even in a branch that is not taken. No
time here was measured. `python -m bench.gpu.costs --lanes` uses measured times instead.
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

    multiprocessors  number of multiprocessors
    memory        bytes/s that matrix products read: 0.885 of the peak
    l2            bytes/s from L2 to the multiprocessors
    clock         cycles/s, the lowest under load
    gap           seconds between the end of a node and the start of the next node of a graph
    early_gap     the same, if the next node was launched early (early.py) and the node allows it
    """

    name: str
    multiprocessors: int
    memory: float
    l2: float
    clock: float
    gap: float
    early_gap: float


# The data sheet of the H200 gives 132 multiprocessors and a peak of 4.8 TB/s. Good kernels read at
# 0.885 of the peak. L2 delivers 5.5 to 6 TB/s. Clocks under load are 1.755 to 1.98 GHz. The gap of
# 1.3 us per node was published; it was measured in graphs on an H200. The early gap is assumed: the
# next programs already wait on their multiprocessors, and see the end of the node after two
# accesses to L2.
H200 = Device("h200", 132, 0.885 * 4.8e12, 5.75e12, 1.755e9, 1.3e-6, 0.5e-6)

# number of warp schedulers per multiprocessor; each issues one instruction per cycle
SCHEDULERS = 4

# Assumed latencies in seconds. On an idle H100, an access to L2 takes about 270 cycles, and an
# access to memory 480. On a busy H100 each of them takes about twice as long.
L2_ACCESS, MEMORY_ACCESS = 0.25e-6, 0.6e-6
# Seconds that the last program to arrive takes for the merge. That program writes its sums, waits
# at a memory fence, does an atomic, and reads the other programs' sums: four accesses and the
# fence.
ARRIVAL = 1.7e-6
LOADED = 64  # bytes per cycle that one multiprocessor reads from L2 at most
CYCLES = 1.5  # average cycles between two instructions of a warp
BARRIER = 30  # cycles


@dataclass(frozen=True)
class Work:
    """The work of one kernel after the gap.

    memory, l2  bytes that all programs read from memory and from L2
    chain       seconds that one program waits for accesses that depend on one another
    loops       (loop, times): a loop of the compiled code, and how often one program runs it
    merged      number of programs whose results are merged; only the last program to arrive runs
                the code after the arrival
    alone       bytes that this last program reads from L2 after the arrival
    """

    memory: float
    l2: float
    chain: float
    loops: Sequence[tuple[range, int]] = ()
    merged: int = 1
    alone: float = 0.0


@dataclass(frozen=True)
class Node:
    """The estimate for one kernel.

    us: time, including the gap. memory: bytes read from memory. slots: number of instructions that
    the warps of all programs issue. fit: number of programs that a multiprocessor holds at the same
    time.
    """

    kernel: str
    us: float
    memory: float
    slots: float
    programs: int
    fit: int


def nodes_of(launches: Sequence[Launch], device: Device, context: int) -> list[Node]:
    """Return the estimates for the launches of a graph, in order."""
    allowed = [False, *(launch.arguments.get("EARLY", False) for launch in launches)]
    pairs = zip(launches, allowed, strict=False)
    return [node_of(launch, device, context, after_early) for launch, after_early in pairs]


def node_of(launch: Launch, device: Device, context: int, after_early: bool = False) -> Node:
    """Return the estimate for a launch that reads `context` tokens of the trunk. after_early: the
    previous kernel allows an early start."""
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
    is_early = after_early and launch.arguments.get("EARLY", False)
    gap = device.early_gap if is_early else device.gap
    us = 1e6 * (gap + work.chain + longest + work.alone / LOADED / device.clock)
    slots = launch.programs * each * binary.warps
    return Node(launch.kernel, us, work.memory, slots, launch.programs, binary.fit)


def _times(binary: Binary, work: Work) -> list[int]:
    """Return for each instruction the largest number of times that a program runs it."""
    count = [1] * len(binary.found)
    for loop, times in work.loops:
        for i in loop:
            count[i] *= times
    return count


def _arrival(binary: Binary) -> int:
    """Return the index of the instruction that counts a program's arrival: the first atomic."""
    return next(i for i, (name, _) in enumerate(binary.found) if name.startswith("ATOMG"))


def _of(binary: Binary, count: Sequence[int], opcode: str) -> list[int]:
    """Return how often each instruction runs whose opcode begins with `opcode`."""
    pairs = zip(count, binary.found, strict=True)
    return [times for times, (name, _) in pairs if name.startswith(opcode)]


def _linear(launch: Launch, context: int) -> Work:
    """Return the work of a matrix product. Every program reads its tile of weights from memory, and
    all inputs of its rows from L2."""
    given = launch.arguments
    weights = given["W"].numel() * given["W"].element_size()
    inputs = given["BLOCK_M"] * given["k"] * given["X"].element_size()
    tiles = launch.programs / given["SPLITS"]
    # the program waits for sums of squares before it reads weights
    waits = given["NORM"] and given["BLOCK_M"] > 32
    turns = given["HALF"] > 0  # rope reads angles and slots at the end of the product
    chain = _first(launch) + L2_ACCESS * (1 + waits + turns) + ARRIVAL * (given["SPLITS"] > 1)
    loop = sass.product_loop(launch.binary.found, launch.binary.labels)
    loops = [(loop, given["SPLIT_TILES"])]
    return Work(weights, weights + tiles * inputs, chain, loops, given["SPLITS"])


def _first(launch: Launch) -> float:
    """Return the seconds until a product's first weights arrive. A product that is launched early
    has prefetched them into L2."""
    return L2_ACCESS if launch.arguments["EARLY"] else MEMORY_ACCESS


def _integer_linear(launch: Launch, context: int) -> Work:
    """Return the work of a quantised product. Every program reads its levels, scales and minimums
    from memory, and all rows from L2."""
    given = launch.arguments
    read = ("W", "Scale", *(["Minimum"] if given["MINIMUMS"] else []))
    weights = sum(_bytes(launch, name) for name in read)
    # Number of 4-byte values (a scale, and perhaps sums) in each group of a row.
    numbers = 1 + (2 if given["MINIMUMS"] or given["ZERO"] else 0)
    inputs = given["rows"] * given["groups"] * (32 + 4 * numbers)
    loop = sass.product_loop(launch.binary.found, launch.binary.labels)
    turns = math.ceil(given["groups"] / given["TURN"])
    chain = _first(launch) + L2_ACCESS * (1 + (given["HALF"] > 0))
    return Work(weights, weights + launch.programs * inputs, chain, [(loop, turns)])


def _round_rows(launch: Launch, context: int) -> Work:
    """Return the work of rounding rows. A program waits three times: for the row, for the norm's
    weight, and for its own last writes."""
    size = launch.arguments["X"].element_size()
    return Work(0, _bytes(launch, "X") * (1 + 1 / size), 3 * L2_ACCESS)


def _attention(launch: Launch, context: int) -> Work:
    """Return the work of attention. A work item has one split of the keys if there are few splits,
    otherwise FAN splits. The items' partial softmax results are merged level by level."""
    given = launch.arguments
    splits = context // given["SPLIT"] + 1
    taken = 1 if splits <= given["short"] else given["FAN"]
    units = given["units"]
    pieces = math.ceil(splits / taken)
    turns = math.ceil(units * pieces / launch.programs)
    levels = 0 if pieces == 1 else max(1, math.ceil(math.log(pieces, given["FAN"])))
    # bytes of a key and its value in one KV head
    one = 2 * given["HEAD_DIM"] * given["K"].element_size()
    read = units * context * one
    loop = sass.product_loop(launch.binary.found, launch.binary.labels)
    tiles = turns * taken * given["SPLIT"] // given["BLOCK_N"]
    # A program waits six times for data from L2 or for its own writes. For each work item it also
    # waits for the first keys from memory.
    chain = 6 * L2_ACCESS + turns * MEMORY_ACCESS + levels * ARRIVAL
    merged = min(pieces, given["FAN"])
    # bytes of the partial softmaxes that are merged one after another: a group of each level
    groups = [min(math.ceil(pieces / given["FAN"] ** i), given["FAN"]) for i in range(levels)]
    alone = 4 * given["BLOCK_M"] * given["HEAD_DIM"] * sum(groups)
    return Work(read * given["kv_heads"] / units, read, chain, [(loop, tiles)], merged, alone)


def _choose(launch: Launch, context: int) -> Work:
    """Return the work of the token choice. Each program picks tokens of its chunk in a loop. For
    distributions, the merge has a second loop."""
    given = launch.arguments
    logits = given["Logits"].numel() * given["Logits"].element_size()
    times = [given["PICKS"], *([CANDIDATES] if given["DISTS"] else [])]
    found = sass.loops(launch.binary.found, launch.binary.labels)
    if len(found) < len(times):
        raise ValueError(f"choose: expected {len(times)} loops of picks but got {len(found)}")
    chain = 3 * L2_ACCESS + ARRIVAL
    return Work(0, logits, chain, list(zip(found, times, strict=False)), given["SPLITS"])


def _rope(launch: Launch, context: int) -> Work:
    """Return the work of rope and the KV write. A program waits five times: for its row, for the
    slot and position, for the values, for the frequencies, and for its own writes."""
    return Work(0, 2 * _bytes(launch, "QKV"), 5 * L2_ACCESS)


def _embed(launch: Launch, context: int) -> Work:
    """Return the work of the embedding. A program waits for the token, for the token's row of the
    matrix, and for its own last writes."""
    return Work(_bytes(launch, "Out"), 0, 2 * L2_ACCESS + MEMORY_ACCESS)


def _see(launch: Launch, context: int) -> Work:
    """Return the work of `see`. A program waits for the number of rows, for the rows, and for its
    own last writes."""
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
