"""What a cubin takes of a multiprocessor: registers, programs that fit, instructions."""

import re
import subprocess
import tempfile
from pathlib import Path

import triton

# Shared memory of a multiprocessor, bytes, of which the system takes 1 KiB a program.
SHARED = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}
REGISTERS, WARPS = 65536, 64  # of a multiprocessor
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
CUOBJDUMP, NVDISASM = TOOLS / "cuobjdump", TOOLS / "nvdisasm"


def resources(cubin):
    """Registers a thread and bytes of local memory (spills), as cuobjdump reads them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(line for line in text.splitlines() if "REG:" in line)
    found = dict(part.split(":", 1) for part in line.split() if ":" in part)
    return int(found["REG"]), max(int(found["STACK"]), int(found["LOCAL"]))


def fitting(warps, registers, shared, architecture):
    """Programs that a multiprocessor holds at once; a warp has registers in eights a thread."""
    by_registers = REGISTERS // (32 * warps * -(-registers // 8) * 8)
    return min(by_registers, SHARED[architecture] // (shared + 1024), WARPS // warps)


SASS_LINE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)(.*)")
SASS_LABEL = re.compile(r"^(\.L_x_\d+):")


def instructions(cubin):
    """[(opcode, operands)] of a cubin, and {label: index of the instruction behind it}."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(NVDISASM), "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found, labels = [], {}
    for line in text.splitlines():
        if label := SASS_LABEL.match(line):
            labels[label[1]] = len(found)
        elif line_of := SASS_LINE.match(line):
            found.append((line_of[2], line_of[3]))
    return found, labels


def instructions_of_loop(found, labels):
    """Those of the shortest loop that holds a product of tensor cores."""
    sizes = []
    for i, (opcode, operands) in enumerate(found):
        to = re.search(r"\.L_x_\d+", operands) if opcode.startswith("BRA") else None
        begin = labels[to[0]] if to else i + 1
        if begin <= i and any("MMA" in name for name, _ in found[begin : i + 1]):
            sizes.append(i + 1 - begin)
    return min(sizes)
