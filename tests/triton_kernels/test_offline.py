"""Contract under test: every kernel compiles for sm_80, sm_90 and sm_100, which catches what the
interpreter forgives, and fits them: shared memory, and registers where it matters. A kernel that
offline.py does not know fails here."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "triton_kernels"
ARCHITECTURES = (80, 90, 100)


def jitted_functions():
    lines = [line for path in KERNELS.glob("*.py") for line in path.read_text().splitlines()]
    return {
        after.removeprefix("def ").split("(")[0]
        for line, after in pairwise(lines)
        if line.startswith("@triton.jit") and after.endswith("(") and "_kernel(" in after
    }


def compiled(folder, *flags):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder)
    command = [sys.executable, HERE / "offline.py", *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def cubins(tmp_path_factory):
    """Every kernel once, as the default tests can afford it."""
    return compiled(tmp_path_factory.mktemp("triton"), "--core")


def check_fit(cubins):
    for c in cubins:
        name = (c["kernel"], c["configuration"], c["dtype"], c["architecture"])
        assert c["cubin_bytes"] > 0, name
        assert c["shared_bytes"] <= c["shared_limit"], name
        if is_bounded(c):
            assert c["local_bytes"] == 0, name


def is_bounded(c):
    """Attention holds all it works with in registers, in every dtype and at every head_dim; so do
    products, of every shape that matters."""
    return "attention" in c["kernel"] or "linear" in c["kernel"]


def programs_of(c):
    """That fit a multiprocessor of sm_90: shared memory, 1 KiB of the system's each, and registers,
    which a warp has in eights a thread."""
    threads = 32 * c["warps"] * -(-c["registers"] // 8) * 8
    return min(228 * 1024 // (c["shared_bytes"] + 1024), 65536 // threads)


def products_on_sm90(cubins):
    """(name, programs that fit) of products of 16 rows in bfloat16, of models that fill it."""
    for c in cubins:
        name, _, rows = c["configuration"].partition(", ")
        is_half = "linear" in c["kernel"] and c["dtype"] == "*bf16" and "demo" not in name
        if is_half and rows == "16 rows" and c["architecture"] == 90:
            yield name, programs_of(c)


def test_every_kernel_compiles_for_every_architecture(cubins):
    found = {(c["kernel"], c["architecture"]) for c in cubins}
    assert found == {(name, a) for name in jitted_functions() for a in ARCHITECTURES}


def test_all_of_them_fit(cubins):
    check_fit(cubins)
    assert any(is_bounded(c) for c in cubins)
    assert dict(products_on_sm90(cubins))["8B gate_up"] >= 4  # 448 tiles for 132 multiprocessors


@pytest.mark.exact
def test_every_configuration_fits(tmp_path_factory):
    every = compiled(tmp_path_factory.mktemp("triton"), "--all")
    check_fit(every)
    fitting = dict(products_on_sm90(every))
    assert len(fitting) == 10
    assert min(fitting.values()) >= 3
    floats = {"*fp16", "*bf16", "*fp32"}
    for kernel in jitted_functions() - {"_see_kernel", "_ban_kernel"}:
        assert {c["dtype"] for c in every if c["kernel"] == kernel} == floats, kernel
    widths = {c["configuration"].split(",")[0] for c in every if "attention" in c["kernel"]}
    assert widths == {"head_dim 64", "head_dim 128", "head_dim 256"}
