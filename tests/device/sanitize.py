"""Runs compute-sanitizer over a short decode. Before this run, the tool must report a known
fault."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .steps import ROOT, Outcome, Step, succeeded

TOOL = "compute-sanitizer"
REPORTED = 66  # exit code of a run in which the tool reports something
CANARY = ROOT / "build" / "gpu-canary"
# Text that each tool must report for the canary, a program with a known fault.
SAYS = {
    "memcheck": "Invalid __global__ write",
    "racecheck": "Race reported",
    "synccheck": "Barrier error",
}
# A line that bench.gpu.decode prints.
DECODED = re.compile(r"^\d+ tokens by .*: right", re.MULTILINE)
SUMMARY = re.compile(r"(ERROR|RACECHECK) SUMMARY: 0 (errors|hazards)")
DECODE = ("-m", "bench.gpu.decode", "--device", "cuda", "--max-tokens")
TOKENS = {"memcheck": "16", "racecheck": "4", "synccheck": "4"}
# {tool: time limit of a decode in seconds}
SECONDS = {"memcheck": 140, "racecheck": 70, "synccheck": 50}
# {tool: number of tries}. racecheck may report false hazards in cp.async pipelines.
TRIES = {"racecheck": 2}
BUILD_SECONDS, CANARY_SECONDS = 40, 15
# No report of failed API calls: libraries may call functions that the driver lacks, which is no
# fault. Our code checks its own calls.
PROBES = ("--report-api-errors", "no")


def find_tool() -> str | None:
    """Return the path of compute-sanitizer, which is on PATH or next to the CUDA compiler. Return
    None if there is none."""
    beside = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"]
    nvcc = shutil.which("nvcc")
    if nvcc:
        beside.append(Path(nvcc).resolve().parent)
    return shutil.which(TOOL) or next(
        (found for folder in beside if (found := shutil.which(TOOL, path=str(folder)))), None
    )


def why_not(tool: str | None) -> str:
    """Return the reason why the tool does not run here, in a sentence; "" if the tool runs."""
    if tool is None:
        return f"{TOOL}: expected it on PATH or beside nvcc, found none: nothing was sanitized"
    if shutil.which("nvcc") is None:
        return f"{TOOL}: expected nvcc to compile its canary, found none: nothing was sanitized"
    try:
        done = subprocess.run((tool, "--version"), capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{TOOL}: expected it to run, got {type(error).__name__}: nothing was sanitized"
    if done.returncode:
        return f"{TOOL}: expected it to run, it ended with {done.returncode}: nothing was sanitized"
    return ""


def steps(tool: str) -> tuple[Step, ...]:
    """Return the steps: canaries that each tool must report, then decodes without a report."""
    source = str(ROOT / "tests" / "device" / "canary.cu")
    nvcc = ("nvcc", "-std=c++17", "-arch=native", "-lineinfo", source, "-o", str(CANARY))
    found = [Step("build the canary", nvcc, BUILD_SECONDS, succeeded)]
    for kind, says in SAYS.items():
        command = (*_checked(tool, kind), str(CANARY), kind)
        found.append(Step(f"{kind}: canary", command, CANARY_SECONDS, must_report(says)))
    for kind in SAYS:
        probes = PROBES if kind == "memcheck" else ()
        command = (*_checked(tool, kind), *probes, sys.executable, *DECODE, TOKENS[kind])
        tries = TRIES.get(kind, 1)
        found.append(Step(f"{kind}: decode", command, SECONDS[kind], is_clean, tries=tries))
    return tuple(found)


def must_report(says: str) -> Callable[[Outcome], str]:
    """Return a function that judges an outcome. It expects the report `says`. If the tool misses a
    known fault, a decode without reports proves nothing."""

    def judge(outcome: Outcome) -> str:
        if outcome.code == REPORTED and says in outcome.text:
            return ""
        return (
            f"expected a report of the canary ({says!r}, exit code {REPORTED}), got exit code "
            f"{outcome.code}: what this tool does not report means nothing here"
        )

    return judge


def is_clean(outcome: Outcome) -> str:
    """Return the reason why a decode is not right, or "". The tool must report nothing, and the
    tokens must be right."""
    if outcome.code == REPORTED:
        return "the tool reported something, see the end of what it said"
    if outcome.code != 0:
        return succeeded(outcome)
    if not DECODED.search(outcome.text):
        return "expected a decode to say that its tokens are right, it said nothing"
    return "" if SUMMARY.search(outcome.text) else "expected a summary without errors, got none"


def _checked(tool: str, kind: str) -> tuple[str, ...]:
    code = ("--error-exitcode", str(REPORTED))
    return (tool, "--tool", kind, *code, "--target-processes", "all")
