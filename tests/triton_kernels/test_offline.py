"""Contract under test: every kernel compiles for sm_80, sm_90 and sm_100, which catches what the
interpreter forgives. A kernel that offline.py does not know fails here."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "triton_kernels"


def jitted_functions():
    lines = [line for path in KERNELS.glob("*.py") for line in path.read_text().splitlines()]
    return {
        after.removeprefix("def ").split("(")[0]
        for line, after in pairwise(lines)
        if line.startswith("@triton.jit") and after.endswith("(") and "_kernel(" in after
    }


@pytest.fixture(scope="module")
def cubins(tmp_path_factory):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run(
        [sys.executable, HERE / "offline.py"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_compiles_for_every_architecture(cubins):
    found = {(c["kernel"], c["architecture"]) for c in cubins if c["cubin_bytes"] > 0}
    assert found == {(name, a) for name in jitted_functions() for a in (80, 90, 100)}


def test_the_norm_compiles_for_every_dtype(cubins):
    found = {c["dtype"] for c in cubins if c["kernel"] == "_rms_norm_kernel"}
    assert found == {"*fp16", "*bf16", "*fp32"}


def test_shared_memory_fits_the_smallest_architecture(cubins):
    assert max(c["shared_bytes"] for c in cubins) <= 99 * 1024
