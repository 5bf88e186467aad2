"""`python -m sbrt.collect_env`: what a bug report should say about the machine."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import __version__
from ._core import build_info
from .config import usable_cores

PACKAGES = ("numpy", "safetensors", "tokenizers", "torch", "triton", "flash-attn", "matplotlib")


def collect() -> dict[str, Any]:
    """Versions, the build and the processor; nothing that names a person or a path."""
    return {
        "sbrt": __version__,
        "build": dict(build_info()),
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "usable_cores": usable_cores(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


if __name__ == "__main__":
    print(json.dumps(collect(), indent=2))
