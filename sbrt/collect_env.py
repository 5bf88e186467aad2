"""`python -m sbrt.collect_env [--json]`: the facts about the machine that a bug report needs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import __version__
from ._core import build_info, instruction_sets
from .cores import usable_cores
from .tools import flags

PACKAGES = (
    *("numpy", "safetensors", "tokenizers", "torch", "triton", "flash-attn"),
    *("transformers", "matplotlib"),
)
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")


def main(argv: Sequence[str] | None = None) -> int:
    """Print what `collect` finds, as text or as JSON; returns the exit code."""
    return flags.guarded("sbrt.collect_env", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = flags.Parser(
        prog="python -m sbrt.collect_env",
        description="Facts about the machine for a bug report; no paths, no names.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(argv)
    found = collect()
    print(json.dumps(found, indent=2) if args.json else render(found))
    return 0


def collect() -> dict[str, Any]:
    """Return versions and facts about the build and the machine.

    The result contains no path and nothing that identifies a person.
    """
    return {
        "sbrt": __version__,
        "build": dict(build_info()),
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "instruction_sets": list(instruction_sets()),
        "usable_cores": usable_cores(),
        "cores": os.cpu_count() or 1,
        "memory_gib": _memory_gib(),
        "gpus": _gpus(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def render(found: dict[str, Any]) -> str:
    """Format the results of `collect` as lines `name: value`, for a bug report."""
    build, sets = found["build"], found["instruction_sets"]
    cuda = "no"
    if build["cuda"]:
        cuda = f"{build['cuda_version']}, architectures {build['cuda_architectures']}"
        if build["why_no_cuda"]:
            cuda += f"; {build['why_no_cuda']}"
    elif build["cuda_version"]:
        cuda = f"no (compiler {build['cuda_version']} was there)"
    lines = {
        "sbrt": found["sbrt"],
        "compiler": build["compiler"],
        "CUDA": cuda,
        "Python": found["python"],
        "system": found["system"],
        "processor": found["processor"] or "unknown",
        "instruction set": f"{sets[0]} (of {', '.join(sets)})",
        "cores": f"{found['usable_cores']} usable of {found['cores']}",
        "memory": f"{found['memory_gib']} GiB" if found["memory_gib"] else "unknown",
        "GPU": "; ".join(found["gpus"]) or "none",
    }
    lines |= {name: given or "not installed" for name, given in found["packages"].items()}
    width = max(map(len, lines)) + 1
    return "\n".join(f"{name + ':':{width}} {value}" for name, value in lines.items())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _memory_gib() -> float | None:
    """Return the memory of the machine in GiB; None if it is unknown. A container's limit may be
    lower."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        return None


def _gpus() -> list[str]:
    """Return `name, memory, driver` of each NVIDIA GPU; [] if nvidia-smi is missing or fails."""
    try:
        done = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines()] if done.returncode == 0 else []


if __name__ == "__main__":
    raise SystemExit(main())
