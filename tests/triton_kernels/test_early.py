"""Contract under test: programmatic dependent launch. A kernel that is launched early reads nothing
but weights until it has waited for the previous kernel. The tests check the sources, and also the
compiled code, because a compiler could move a load. Without `programmatic_launch` no kernel is
launched early. In the interpreter the option changes nothing."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sbrt import EngineConfig
from sbrt.gpu import lane, ops
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.demo_pair import demo_folder
from sbrt.serve import pair
from sbrt.triton_kernels.early import is_early

ROOT = Path(__file__).parents[2]
KERNELS = sorted((ROOT / "triton_kernels").glob("*.py"))
WEIGHTS = {"W"}  # kernel arguments with weights, which no kernel writes
# Calls that may come before the wait, because they compute addresses and read no memory.
PURE = {"tl.arange", "tl.minimum", "tl.program_id", "item.to", "tl.arange(0, BLOCK_M).to",
        "tl.program_id(0).to", "(item % SPLITS).to", "columns_of",
        "(2 * n if GATE else n).to"}  # fmt: skip
PREFETCH = "_prefetch_weights"


def kernels(tree):
    """Yield the functions with a parameter EARLY, which are the kernels that may be launched
    early."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and "EARLY" in [a.arg for a in node.args.args]:
            yield node


def called(node):
    return [(ast.unparse(c.func), c) for c in ast.walk(node) if isinstance(c, ast.Call)]


def faults(function):
    """Yield a sentence for each fault in how a kernel waits for the previous kernel."""
    blocks = [i for i, node in enumerate(function.body) if is_block(node)]
    if len(blocks) != 1:
        yield f"expected one `if EARLY:` at the top level, got {len(blocks)}"
        return
    block = function.body[blocks[0]]
    names = [name for name, _ in called(block)]
    if [n for n in names if n in ("start_next", "wait_for_previous")] != [
        "start_next", "wait_for_previous",
    ]:  # fmt: skip
        yield "expected one start_next and then one wait_for_previous"
    if not (is_call(block.body[0], "start_next") and is_call(block.body[-1], "wait_for_previous")):
        yield "expected start_next first and wait_for_previous last"
    before = [*function.body[: blocks[0]], *block.body[1:-1]]
    for name, call in (each for node in before for each in called(node)):
        if name == PREFETCH and ast.unparse(call.args[0]) in WEIGHTS:
            continue
        if name not in PURE:
            yield f"line {call.lineno}: {name} before the wait"
    rest = function.body[blocks[0] + 1 :]
    again = [name for node in rest for name, _ in called(node) if name in ("wait_for_previous",)]
    if again:
        yield "expected no second wait"


def is_block(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "EARLY" and not node.orelse


def is_call(node, name):
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and (ast.unparse(node.value.func) == name)
    )


def launches(tree):
    """Yield (name of the kernel, keywords by name) for each call that launches a kernel."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
            yield ast.unparse(node.func.value), {k.arg: k.value for k in node.keywords if k.arg}


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_before_the_wait_only_weights_are_touched(path):
    tree = ast.parse(path.read_text())
    assert [f"{f.name}: {fault}" for f in kernels(tree) for fault in faults(f)] == []
    early = {f.name for f in kernels(tree)}
    asked = {name for name, given in launches(tree) if "launch_pdl" in given}
    assert asked == early  # a kernel is launched early if and only if it waits
    for name, given in launches(tree):
        if name in early:
            assert ast.unparse(given["launch_pdl"]) == "early", name


def test_the_kernels_of_a_layer_can_be_early():
    found = {f.name for path in KERNELS for f in kernels(ast.parse(path.read_text()))}
    assert found == {f"_{name}_kernel" for name in ops.EARLY}


GOOD = """
def k(W, X, EARLY):
    item = tl.program_id(0).to(tl.int64)
    if EARLY:
        start_next()
        _prefetch_weights(W, item)
        wait_for_previous()
    x = tl.load(X)
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", None),
        ("    item = tl", "    x = tl.load(X)\n    item = tl", "tl.load before the wait"),
        ("_prefetch_weights(W", "_prefetch_weights(X", "_prefetch_weights before the wait"),
        ("_prefetch_weights(W, item)", "tl.store(X, 0)", "tl.store before the wait"),
        ("        wait_for_previous()\n", "", "expected one start_next and then"),
        ("        start_next()\n", "", "expected one start_next and then"),
        ("    if EARLY:", "    if EARLY and item:", "expected one `if EARLY:`"),
        ("    x = tl.load(X)", "    wait_for_previous()", "expected no second wait"),
        ("        _prefetch_weights(W, item)\n        wait_for_previous()",
         "        wait_for_previous()\n        _prefetch_weights(W, item)", "previous last"),
    ],
)  # fmt: skip
def test_what_breaks_the_rule_is_found(old, new, said):
    [function] = kernels(ast.parse(GOOD.replace(old, new, 1) if old else GOOD))
    found = list(faults(function))
    if said is None:
        assert found == []
    else:
        assert any(said in fault for fault in found), found


# Code that compiles the early launches of an 8B model's layer and LM head. It prints what each
# kernel does before its wait.
COMPILED = """
import json, sys
from dataclasses import replace
import torch
from bench.gpu.launches import OfflineLane
from bench.models.real import config_of
from sbrt.gpu import ops
nothing = lambda *args, **given: None
early = replace(ops.early(ops.TRITON), **dict.fromkeys(("embed", "see", "choose"), nothing))
architecture, storage = int(sys.argv[1]), sys.argv[2]
config = replace(config_of("8b"), layers=1)
lane = OfflineLane(config, False, 16, 132, early, architecture, storage=storage)
for launch in lane.launches(16):
    opcodes = [name for name, _ in launch.binary.found]
    print(json.dumps([launch.kernel, launch.binary.local, opcodes]))
"""
# Beginnings of the names of opcodes that access memory.
READS = ("LD", "ST", "ATOM", "RED", "UBLKCP", "TEX", "SULD")


LAUNCHED = {
    "bfloat16": ["linear", "branch_attention", *["linear"] * 4],
    "int8": [
        *("round_rows", "integer_linear", "branch_attention", "integer_linear"),
        *("round_rows", "integer_linear", "integer_linear"),
        *("round_rows", "integer_linear"),
    ],
}


@pytest.mark.parametrize("storage", LAUNCHED)
@pytest.mark.parametrize("architecture", [90, pytest.param(100, marks=pytest.mark.exact)])
def test_compilers_keep_the_order(architecture, storage):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(ROOT / "build" / "triton")
    command = [sys.executable, "-c", COMPILED, str(architecture), storage]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in found] == LAUNCHED[storage]
    for name, local, opcodes in found:
        assert local == 0
        [wait] = [i for i, opcode in enumerate(opcodes) if opcode == "ACQBULK"]
        assert [opcode for opcode in opcodes[:wait] if opcode == "PREEXIT"], name
        touched = {o for o in opcodes[:wait] if o.startswith(READS) and not o.startswith("LDC")}
        assert touched == set(), name
        prefetched = [o for o in opcodes[:wait] if o.startswith("CCTL")]
        assert set(prefetched) <= {"CCTL.E.PF2"}
        assert bool(prefetched) == name.endswith("linear")


def test_the_flag_changes_nothing_where_it_cannot():
    assert not is_early(True, torch.device("cpu"))  # on the CPU kernels run in the interpreter
    assert not is_early(False, torch.device("meta"))
    assert ops.early(ops.TORCH) is ops.TORCH
    assert ops.early(ops.TRITON, False) is ops.TRITON
    early = ops.early(ops.TRITON)
    assert all(getattr(early, name).keywords == {"early": True} for name in ops.EARLY)
    assert early.see is ops.TRITON.see


def test_the_flag_of_an_engine_reaches_its_ops(monkeypatch):
    """EngineConfig.programmatic_launch reaches the ops that a lane records."""
    checkpoint, given = open_checkpoint(demo_folder("draft")), []
    monkeypatch.setattr(lane, "expect_core", lambda device: None)
    with monkeypatch.context() as patch:
        patch.setattr(lane, "model_of", lambda checkpoint, **more: given.append(more))
        for asked in (False, True):
            config = EngineConfig("x", device="cuda", programmatic_launch=asked)
            pair._model(config, checkpoint, None)
    assert [more["programmatic_launch"] for more in given] == [False, True]
    made = []
    monkeypatch.setattr(lane, "model_with", lambda weights, ops, **more: made.append(ops))
    for asked in (False, True):
        lane.model_of(checkpoint, device="cpu", ops="triton", programmatic_launch=asked)
        assert getattr(made[-1].linear, "keywords", {}) == ({"early": True} if asked else {})
