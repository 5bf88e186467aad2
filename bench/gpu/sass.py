"""Reads a cubin without a device: registers, programs that fit a multiprocessor, instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import triton

# Shared memory of a multiprocessor, in bytes. The system uses 1 KiB of it per program.
SHARED = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}
REGISTERS, WARPS = 65536, 64  # per multiprocessor
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
CUOBJDUMP, NVDISASM = TOOLS / "cuobjdump", TOOLS / "nvdisasm"

Instructions = list[tuple[str, str]]  # opcode and operands, in the order of addresses
Labels = dict[str, int]  # name -> index of the instruction that follows it


def resources(cubin: bytes) -> tuple[int, int]:
    """Return the registers per thread and the bytes of local memory (spills), from cuobjdump."""
    text = _dump(cubin, str(CUOBJDUMP), "--dump-resource-usage")
    line = next(line for line in text.splitlines() if "REG:" in line)
    found = dict(part.split(":", 1) for part in line.split() if ":" in part)
    return int(found["REG"]), max(int(found["STACK"]), int(found["LOCAL"]))


def fitting(warps: int, registers: int, shared: int, architecture: int) -> int:
    """Return how many programs a multiprocessor holds at the same time.

    registers: number per thread; the device allocates them in multiples of eight. shared: bytes of
    shared memory per program.
    """
    by_registers = REGISTERS // (32 * warps * -(-registers // 8) * 8)
    return min(by_registers, SHARED[architecture] // (shared + 1024), WARPS // warps)


SASS_LINE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)(.*)")
SASS_LABEL = re.compile(r"^(\.L_x_\d+):")


def instructions(cubin: bytes) -> tuple[Instructions, Labels]:
    """Return the instructions of a cubin, and its labels."""
    text = _dump(cubin, str(NVDISASM), "-c")
    found: Instructions = []
    labels: Labels = {}
    for line in text.splitlines():
        if label := SASS_LABEL.match(line):
            labels[label[1]] = len(found)
        elif line_of := SASS_LINE.match(line):
            found.append((line_of[2], line_of[3]))
    return found, labels


def loops(found: Instructions, labels: Labels) -> list[range]:
    """Return the instruction indices of each loop, sorted by the address of the loop's end.

    A loop reaches from the target of a backward branch to the branch. An instruction that branches
    to itself ends a program and is no loop.
    """
    made = []
    for i, (opcode, operands) in enumerate(found):
        to = re.search(r"\.L_x_\d+", operands) if opcode.startswith("BRA") else None
        begin = labels[to[0]] if to else i
        if begin < i:
            made.append(range(begin, i + 1))
    return made


def product_loop(found: Instructions, labels: Labels) -> range:
    """Return the shortest loop that contains a tensor core instruction."""
    return min(
        (loop for loop in loops(found, labels) if any("MMA" in found[i][0] for i in loop)),
        key=len,
    )


def _dump(cubin: bytes, *command: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([*command, file.name], capture_output=True, text=True, check=True)
    return done.stdout
