"""Contract under test: every kernel compiles for sm_90, and in `make exact` also for sm_80 and
sm_100. Compiling finds errors that the interpreter ignores. Each kernel must fit into shared
memory, and attention and products into registers. On sm_90 enough programs must fit a
multiprocessor, and issue slots must not limit streaming. The test fails for a kernel that
offline.py does not list."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from sbrt.triton_kernels.choose_plan import ChoosePlan
from sbrt.triton_kernels.cut import DIGITS, LAUNCHES
from sbrt.triton_kernels.plan import PROGRAMS_PER_MULTIPROCESSOR

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "triton_kernels"
# Cache of cubins by content, so that a second run compiles only what changed.
KEPT = ROOT / "build" / "triton"
ARCHITECTURES = (80, 90, 100)


def jitted_functions():
    lines = [line for path in KERNELS.glob("*.py") for line in path.read_text().splitlines()]
    return {
        after.removeprefix("def ").split("(")[0]
        for line, after in pairwise(lines)
        if line.startswith("@triton.jit") and after.endswith("(") and "_kernel(" in after
    }


def compiled(*flags):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(KEPT)
    command = [sys.executable, "-m", "tests.triton_kernels.offline", *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def cubins():
    """Compile every kernel once with --core, which is quick enough for the default tests."""
    return compiled("--core")


def check_fit(cubins):
    for c in cubins:
        name = (c["kernel"], c["configuration"], c["dtype"], c["architecture"])
        assert c["cubin_bytes"] > 0, name
        assert c["shared_bytes"] <= c["shared_limit"], name
        if is_bounded(c):
            assert c["local_bytes"] == 0, name


def is_bounded(c):
    """Return True for kernels that must not spill registers: attention, products, and norms, which
    hold a row in registers."""
    return any(name in c["kernel"] for name in ("attention", "linear", "norm", "round_rows"))


def products_on_sm90(cubins):
    """Yield (configuration, cubin) of the bfloat16 products on sm_90, without the small demo
    models."""
    for c in cubins:
        is_half = c["kernel"] == "_linear_kernel" and c["dtype"] == "*bf16"
        if is_half and "demo" not in c["configuration"] and c["architecture"] == 90:
            yield c["configuration"], c


# At 4.8 TB/s and the lowest clock, a multiprocessor has about 223 issue slots for each KiB that it
# receives. A kernel that needs more per KiB is limited by issue slots.
SLOTS_OF_PRODUCTS = 200
# Limits for the issue slots per KiB of integer products with up to 16 rows. As on the CPU, every 32
# columns need a float32 addition. In int4, a KiB has more groups of 32 columns, so int4 products
# are limited by issue slots.
SLOTS_OF_INTEGERS = {"int8": 200, "Q8_0": 210, "int4": 625, "Q4_0": 625}
# Limit for the issue slots per KiB of logits, summed over all passes that filter a row. A row has
# at least 32 programs.
SLOTS_OF_FILTERS = 4500


def check_work(cubins):
    """Check, for the cubins of sm_90, how many programs fit a multiprocessor, and the issue slots
    per KiB."""
    for c in cubins:
        name = (c["kernel"], c["configuration"], c["dtype"], c["warps"])
        if c["architecture"] != 90 or c["dtype"] == "*fp32":
            continue
        if "linear" in c["kernel"] or "choose" in c["kernel"]:
            assert c["programs"] >= 2, name
        if "attention" in c["kernel"] and c["warps"] <= 4:
            assert c["programs"] >= PROGRAMS_PER_MULTIPROCESSOR, name
    for name, c in products_on_sm90(cubins):
        assert c["slots_per_kib"] is not None, "issue slots: expected Triton's nvdisasm, found none"
        assert c["slots_per_kib"] <= SLOTS_OF_PRODUCTS, name
    check_integers(cubins)
    passes = {
        (c["kernel"], c["configuration"]): c
        for c in cubins
        if c["kernel"] in ("_begin_cut_kernel", "_digit_kernel", "_end_cut_kernel")
        and (c["dtype"], c["architecture"]) == ("*fp32", 90)
    }
    digits = [passes["_digit_kernel", f"digit {d}"] for d in DIGITS]
    launched = [passes["_begin_cut_kernel", ""], *digits, passes["_end_cut_kernel", ""]]
    assert len(launched) == LAUNCHES
    assert all(c["programs"] >= 2 for c in launched)
    assert sum(c["slots_per_kib"] for c in launched) <= SLOTS_OF_FILTERS
    assert ChoosePlan(16, 128_256, filtered=True).splits >= 32


def check_integers(cubins):
    """Check the issue slots per KiB of integer products on sm_90."""
    checked = set()
    for c in cubins:
        name = c["configuration"]
        if c["kernel"] != "_integer_linear_kernel" or c["architecture"] != 90:
            continue
        kind = name.split()[0]
        if kind in SLOTS_OF_INTEGERS and name.endswith((", 1 rows", ", 16 rows")):
            assert c["slots_per_kib"] <= SLOTS_OF_INTEGERS[kind], name
            checked.add(kind)
    assert checked >= {"int8", "int4"}


def test_every_kernel_compiles(cubins):
    """All kernels compile on sm_90, and one product on the other architectures."""
    found = {(c["kernel"], c["architecture"]) for c in cubins}
    products = {("_linear_kernel", a) for a in ARCHITECTURES}
    assert found == {(name, 90) for name in jitted_functions()} | products


def test_all_of_them_fit(cubins):
    check_fit(cubins)
    assert any(is_bounded(c) for c in cubins)
    products = dict(products_on_sm90(cubins))
    # The product has 448 tiles, and there are 132 multiprocessors.
    assert products["8B gate_up, 16 rows"]["programs"] >= 4
    check_work(cubins)


@pytest.mark.exact
def test_every_configuration_fits():
    every = compiled("--all")
    found = {(c["kernel"], c["architecture"]) for c in every}
    assert found == {(name, a) for name in jitted_functions() for a in ARCHITECTURES}
    check_fit(every)
    check_work(every)
    of_16 = {name: c for name, c in products_on_sm90(every) if ", 16 rows" in name}
    assert len(of_16) == 25
    assert min(c["programs"] for c in of_16.values()) >= 3
    floats = {"*fp16", "*bf16", "*fp32"}
    # These kernels read nothing in the model's dtype.
    for kernel in jitted_functions() - {"_see_kernel", "_ban_kernel", "_rate_kernel"}:
        assert {c["dtype"] for c in every if c["kernel"] == kernel} == floats, kernel
    widths = {c["configuration"].split(",")[0] for c in every if "attention" in c["kernel"]}
    assert widths == {"head_dim 64", "head_dim 128", "head_dim 256"}
