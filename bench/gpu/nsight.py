"""`python -m bench.gpu.nsight nsys|ncu`: a short decode under NVIDIA's profilers.

    python -m bench.gpu.nsight nsys [--print] [-- flags of bench.gpu.decode]

nsys shows every node of every graph of both lanes over time, inside the NVTX ranges of the domain
`sbrt`. ncu measures our own kernels in the graphs of a round, with its full set of metrics. The
report is build/sbrt.nsys-rep or build/sbrt.ncu-rep. `make nsys` and `make ncu` call this command.
`bench.kernels --device cuda --ncu` measures the kernels outside of a round.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sbrt.errors import EngineError
from sbrt.tools import flags

from .device import expect_cuda

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "build" / "sbrt"
FULL_NAMES = {"nsys": "Nsight Systems", "ncu": "Nsight Compute"}
# Our kernels in a round. The profiler leaves out cuBLAS's kernels.
TRITON = (
    "ban", "begin_cut", "branch_attention", "choose", "digit", "embed", "end_cut",
    "integer_linear", "linear", "rate", "ring_settle", "rms_norm", "rope_kv_write", "round_rows",
    "see", "shape", "gate_mul",
)  # fmt: skip
# Matches a line of the table of a round's ops. Its groups are the op's name and the shape of the
# op's kernel.
OP = re.compile(r"^SBRT_OP\(\w+, (\w+), \w+, \w+, (k\w+)", re.MULTILINE)
TABLE = ROOT / "csrc" / "round" / "op_table.inc"
ROUND = (
    "publish",
    "await",
    *(name for name, shape in OP.findall(TABLE.read_text()) if shape != "kNone"),
)
GRAPHS = (
    "settle", "verify", "select", "plan_certain", "attach_burst", "catch_up", "plan", "step",
    "burst", "serial_burst",
)  # fmt: skip
LAUNCHES = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run the profiler; returns its exit code."""
    return flags.guarded("bench.gpu.nsight", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    at = words.index("--") if "--" in words else len(words)
    args = _parse(words[:at])
    command = COMMANDS[args.tool](words[at + 1 :])
    if args.print:
        print(shlex.join(command))
        return 0
    if shutil.which(args.tool) is None:
        raise EngineError(
            f"{args.tool}: expected {FULL_NAMES[args.tool]} on PATH, found no {args.tool}"
        )
    expect_cuda()
    REPORT.parent.mkdir(exist_ok=True)
    return subprocess.run(command, cwd=ROOT).returncode


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = flags.Parser(
        prog="python -m bench.gpu.nsight",
        description=__doc__.splitlines()[0],
        epilog="Flags of bench.gpu.decode follow --.",
    )
    parser.add_argument("tool", choices=tuple(FULL_NAMES))
    parser.add_argument(
        "--print", action="store_true", help="print the command line, and do not run it"
    )
    return parser.parse_args(argv)


def nsys_command(decode: Sequence[str] = ()) -> list[str]:
    """Return the Nsight Systems command. It captures from Engine.start_profile to stop_profile."""
    return [
        *("nsys", "profile", "--trace=cuda,nvtx", "--cuda-graph-trace=node", "--sample=none"),
        *("--capture-range=cudaProfilerApi", "--capture-range-end=stop"),
        *("--force-overwrite=true", f"--output={REPORT}"),
        *_decode(decode),
    ]


def ncu_command(decode: Sequence[str] = ()) -> list[str]:
    """Return the Nsight Compute command for our kernels in the graphs of a round.

    Each graph is launched inside an NVTX range of the domain `sbrt` that has the graph's name. In
    the filter, `]` selects the kernels that are launched while that range is the innermost one.
    """
    ranges = [word for name in GRAPHS for word in ("--nvtx-include", f"sbrt@{name}]")]
    return [
        *("ncu", "--set", "full", "--graph-profiling", "node", "--profile-from-start", "off"),
        *("--nvtx", *ranges, "--kernel-name", kernel_filter(), "--launch-count", str(LAUNCHES)),
        *("--force-overwrite", "--export", str(REPORT)),
        *_decode(decode),
    ]


def kernel_filter() -> str:
    """Return ncu's pattern for the names of our kernels."""
    return f"regex:^(_({'|'.join(TRITON)})_kernel|{'|'.join(ROUND)})$"


def _decode(flags_of: Sequence[str]) -> list[str]:
    run = [sys.executable, "-m", "bench.gpu.decode", "--device", "cuda", "--nvtx", "--profile"]
    return [*run, *flags_of]


COMMANDS = {"nsys": nsys_command, "ncu": ncu_command}

if __name__ == "__main__":
    sys.exit(main())
