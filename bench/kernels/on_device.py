"""`python -m bench.kernels --device cuda`: times each kernel next to its roof and alternatives.

python -m bench.kernels --device cuda [--only attention] [--seconds 1] [--json OUT] [--ncu]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sbrt.errors import InvalidInputError
from sbrt.tools import flags

from ..gpu.device import expect_cuda
from ..gpu.nsight import kernel_filter

COLUMNS = "op | shape | us (spread) | GB/s | % of measured roof | expected us | x baseline"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print. Returns the exit code: 1 if a result is wrong or slower than expected."""
    return flags.guarded("bench.kernels", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    if args.ncu:
        print(ncu_command(args.only))
        return 0
    expect_cuda()
    found = measured(args.only, args.seconds)
    print(COLUMNS)
    for line in found["cases"]:
        print(render(line))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=2) + "\n")
    return 0 if all(line["right"] and line["kept"] for line in found["cases"]) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser(prog="python -m bench.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda",), default="cuda")
    parser.add_argument(
        "--only", default="", metavar="NAME", help="only ops whose name contains this"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds per case (default: 1)")
    parser.add_argument("--json", metavar="OUT", help="also into this file")
    parser.add_argument("--ncu", action="store_true", help="print the command that profiles it")
    args = parser.parse_args(argv)
    if not 0 < args.seconds <= 600:
        raise InvalidInputError(f"--seconds: expected a number up to 600, got {args.seconds}")
    return args


def measured(only: str, seconds: float) -> dict[str, Any]:
    """Measure all cases whose op's name contains `only`. Returns the device, its read bandwidth,
    and one line per case."""
    import torch

    from ..gpu import timing
    from .cases import cases

    device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(0)
    bandwidth = timing.read_bandwidth(device)
    lines = []
    for case in cases(device, only):
        lines.append(_line(case, bandwidth, seconds))
        print(render(lines[-1]), file=sys.stderr)
    return {
        "device": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "read_bandwidth_gb_per_s": bandwidth / 1e9,
        "cases": lines,
    }


def _line(case: Any, bandwidth: float, seconds: float) -> dict[str, Any]:
    """Check a case, measure it, and return its line. The line has no figures if the case's result
    is wrong."""
    from ..gpu import timing

    line: dict[str, Any] = {"op": case.op, "shape": case.shape, "right": True, "kept": True}
    if case.check is not None:
        difference, allowed = case.check()
        line |= {"difference": difference, "right": difference <= allowed}
        if not line["right"]:
            return line
    timings = timing.measure({"ours": case.launch, **case.baselines}, case.launches, seconds)
    ours = timings.pop("ours")
    expected = None if case.limit is None else case.limit(bandwidth) * 1e6
    ratios = {name: t.us / ours.us for name, t in timings.items()}
    is_quick = expected is None or ours.us <= expected
    line |= {
        "us": ours.us,
        "spread": [ours.least, ours.most],
        "gb_per_s": case.bytes / ours.us / 1e3,
        "share_of_roof": case.bytes / ours.us * 1e6 / bandwidth,
        "expected_us": expected,
        "baselines_us": {name: t.us for name, t in timings.items()},
        "ratios": ratios,
        "kept": is_quick and all(ratios[name] >= least for name, least in case.ratio.items()),
    }
    return line


def render(line: dict[str, Any]) -> str:
    """Return a case's figures as one line of the table."""
    start = f"{line['op']} | {line['shape']}"
    if not line["right"]:
        return f"{start} | WRONG: differs by {line['difference']:.3g}"
    least, most = line["spread"]
    expected = "-" if line["expected_us"] is None else f"{line['expected_us']:.1f}"
    expected += "" if line["kept"] else " MISSED"
    ratios = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in line["ratios"].items())
    return (
        f"{start} | {line['us']:.2f} ({least:.2f}-{most:.2f}) | {line['gb_per_s']:.0f} | "
        f"{100 * line['share_of_roof']:.0f} | {expected} | {ratios}"
    )


def ncu_command(only: str) -> str:
    """Return the command line that profiles our kernels with Nsight Compute."""
    chosen = f" --only {only}" if only else ""
    return (
        f"ncu --set full --kernel-name '{kernel_filter()}' --launch-count 8 --graph-profiling node "
        f"{sys.executable} -m bench.kernels --device cuda --seconds 0.1{chosen}"
    )


if __name__ == "__main__":
    sys.exit(main())
