"""`python -m bench.gpu_check --part kernels|lanes|exact`: what can be checked on a CUDA device
alone, as one JSON.

kernels: the tests of the kernels on the device (Triton compiles them for it), then their bench.
lanes: recorded forwards against the same ops by themselves, then bench.lanes. exact: engines on
the device, every method against plain decoding. Each within its share of eight minutes.
`make gpu-check PART=kernels` calls it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sbrt import collect_env, flags
from sbrt.errors import InvalidInputError

from . import gpu_kernels

ROOT = Path(__file__).parents[1]
TEST_SECONDS, BENCH_SECONDS = 300, 150  # of eight minutes


@dataclass(frozen=True)
class Part:
    """What pytest is given; the module of the bench and its options, if there is one."""

    tests: tuple[str, ...]
    bench: tuple[str, ...] = ()


ANYWHERE = "gpu or (not exact and not sanitize)"
PARTS = {
    "kernels": Part(
        ("-m", ANYWHERE, "tests/triton_kernels"), ("bench.kernels", "--device", "cuda")
    ),
    "lanes": Part(
        ("-m", "gpu", "-k", "not method", "tests/gpu"), ("bench.lanes", "--device", "cuda")
    ),
    "exact": Part(("-m", "gpu", "-k", "method", "tests/gpu")),
}
COUNTS = re.compile(r"(\d+) (passed|failed|error|skipped)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks; returns 0 if all went right, 1 if not, 2 without a device."""
    return flags.guarded("bench.gpu_check", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    gpu_kernels.expect_cuda()
    start = time.monotonic()
    report: dict[str, Any] = {"part": args.part, "environment": collect_env.collect()}
    part = PARTS[args.part]
    report["tests"] = run_tests(part)
    if part.bench:
        report["bench"] = run_bench(part)
    report["seconds"] = time.monotonic() - start
    report["right"] = all(report[what]["right"] for what in ("tests", "bench") if what in report)
    Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    print(f"{args.part}: {'all right' if report['right'] else 'NOT RIGHT'}, see {args.json}")
    return 0 if report["right"] else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser(prog="python -m bench.gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="kernels", metavar="|".join(PARTS))
    parser.add_argument("--json", default="gpu-check.json", metavar="OUT")
    args = parser.parse_args(argv)
    if args.part not in PARTS:
        raise InvalidInputError(f"--part: expected one of {', '.join(PARTS)}, got {args.part}")
    return args


def run_tests(part: Part) -> dict[str, Any]:
    """A part's tests."""
    tests = [sys.executable, "-m", "pytest", "-q", *part.tests]
    found = _run(tests, TEST_SECONDS)
    counts = {kind: int(n) for n, kind in COUNTS.findall(found["last_line"])}
    return found | {"counts": counts, "right": found["code"] == 0 and counts.get("passed", 0) > 0}


def run_bench(part: Part) -> dict[str, Any]:
    """A part's bench, with its figures."""
    out = ROOT / "build" / f"gpu-{part.bench[0]}.json"
    out.parent.mkdir(exist_ok=True)
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", *part.bench, "--json", str(out)]
    found = _run(command, BENCH_SECONDS)
    figures = json.loads(out.read_text()) if out.exists() else None
    return found | {"figures": figures, "right": found["code"] == 0 and figures is not None}


def _run(command: list[str], seconds: float) -> dict[str, Any]:
    """A command's end: its code (None: it ran out of time) and the end of what it said."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=seconds, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        code, text = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        code, text = None, (late.stdout or b"").decode(errors="replace")
    lines = text.splitlines()
    took = time.monotonic() - start
    return {
        "code": code,
        "seconds": took,
        "last_line": lines[-1] if lines else "",
        "end": lines[-60:],
    }


if __name__ == "__main__":
    sys.exit(main())
