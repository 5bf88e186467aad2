"""Contract under test: recorded code calls only ops that write into memory that the caller gives.
Recorded code must not allocate, read a value on the host, wait, or use another stream."""

import ast
from pathlib import Path

import pytest

GPU = Path(__file__).parents[2] / "sbrt" / "gpu"
# IN_PLACE: ops that write to some of their inputs. WITH_OUT: ops that write to `out`.
IN_PLACE = {"see", "rope_kv_write", "ring_settle"}
WITH_OUT = {
    *("round_rows", "integer_linear"),
    *("embed", "linear", "rms_norm", "branch_attention", "gate_mul", "choose"),
    *("matmul", "matmul_bias", "matmul_float32", "copy", "add", "subtract", "prefill_attention"),
}
# Other functions that recorded code may call: they only read sizes, or record ops.
HARMLESS = {
    *("run", "range", "len", "isinstance", "Views", "feature_blocks", "Terms", "normed"),
    *("Linear", "IntegerTerms", "HeadTerms", "head_terms", "integer_plan", "_float_plan"),
}
# Functions that an op of plain torch may not call: they allocate, read a value on the host, or
# wait.
FORBIDDEN = {
    *("item", "cpu", "tolist", "numpy", "synchronize", "current_stream", "default_stream"),
    *("empty", "zeros", "ones", "full", "cat", "stack", "contiguous", "clone", "to", "tensor"),
    *("empty_like", "zeros_like", "repeat_interleave", "index_select", "where"),
}


def recorded_functions(tree):
    """Yield the functions that have a parameter `run`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and "run" in {a.arg for a in node.args.args}:
            yield node


def op_of(call):
    """Return the name of the op in a call run(op, ...)."""
    first = call.args[0] if call.args else None
    return ast.unparse(first).split(".")[-1] if first is not None else ""


def faults(source, own=()):
    tree = ast.parse(source)
    own = {f.name for f in recorded_functions(tree)} | set(own)
    for function in recorded_functions(tree):
        for node in ast.walk(function):
            if isinstance(node, ast.Call):
                yield from call_faults(node, own)
            elif isinstance(node, ast.BinOp | ast.AugAssign) and "v." in ast.unparse(node):
                yield f"line {node.lineno}: {ast.unparse(node)} makes a tensor"


def call_faults(call, own):
    name = ast.unparse(call.func)
    if name == "run":
        op, given = op_of(call), {k.arg for k in call.keywords}
        if op not in IN_PLACE | WITH_OUT:
            yield f"line {call.lineno}: {op} is no op"
        elif op in WITH_OUT and "out" not in given:
            yield f"line {call.lineno}: {op} without out="
    elif (
        name.removeprefix("self.").removeprefix("decoder.").removeprefix("plain.")
        not in own | HARMLESS
    ):
        yield f"line {call.lineno}: {name}() in a recording"


def wrapper_faults(source):
    """Yield the faults of plain-torch ops: calls that do not write to `out`."""
    for function in ast.parse(source).body:
        if not (isinstance(function, ast.FunctionDef) and "out" in ast.unparse(function.args)):
            continue
        for call in (n for n in ast.walk(function) if isinstance(n, ast.Call)):
            name = ast.unparse(call.func)
            writes = name == "out.copy_" or "out" in {k.arg for k in call.keywords}
            if name.split(".")[-1] in FORBIDDEN or not (writes or name.endswith(".t")):
                yield f"line {call.lineno}: {name}() without out="


def test_the_decoder_and_the_lane_record_ops_alone():
    for file in ("decoder.py", "fused.py", "integer.py", "lane.py", "prefill.py"):
        own = {"forward", "read_lengths", "start", "embed", "rope", "attend", "keep", "norm", "add"}
        assert list(faults((GPU / file).read_text(), own)) == []
    assert list(wrapper_faults((GPU / "ops.py").read_text())) == []


def test_there_is_something_to_check():
    names = {f.name for f in recorded_functions(ast.parse((GPU / "decoder.py").read_text()))}
    assert {"forward", "prefill", "attention", "rest", "mlp", "finish", "norm", "linear"} <= names
    names = {f.name for f in recorded_functions(ast.parse((GPU / "fused.py").read_text()))}
    assert {"start", "attention", "rest", "finish"} <= names
    names = {f.name for f in recorded_functions(ast.parse((GPU / "integer.py").read_text()))}
    assert {"start", "attention", "rest", "normed", "input", "gated", "product"} <= names
    inner = {f.name for f in recorded_functions(ast.parse((GPU / "lane.py").read_text()))}
    assert {"settle", "forwards", "choose"} <= inner


BAD = {
    "run(matmul, v.x, w)": "matmul without out=",
    "run(self.ops.rms_norm, v.x, w, eps=1)": "rms_norm without out=",
    "run(torch.mm, v.x, w, out=v.h)": "mm is no op",
    "run(matmul, v.x.contiguous(), w, out=v.h)": "contiguous()",
    "y = torch.empty(3)": "torch.empty()",
    "y = torch.cat([v.x, v.h])": "torch.cat()",
    "n = int(v.x.sum())": "int()",
    "n = v.x[0].item()": "item()",
    "y = v.x.cpu()": "cpu()",
    "torch.cuda.synchronize()": "synchronize()",
    "s = torch.cuda.current_stream()": "current_stream()",
    "y = v.x + v.h": "makes a tensor",
    "v.h += v.x": "makes a tensor",
}


@pytest.mark.parametrize("body", BAD)
def test_what_breaks_a_rule_is_found(body):
    found = list(faults(f"class D:\n    def f(self, run, v, w):\n        {body}\n"))
    assert found
    assert any(BAD[body] in fault for fault in found)


@pytest.mark.parametrize(
    "body", ["torch.mm(x, w)", "x = x.contiguous()", "torch.mm(x, w, out=out).item()", "x.to(y)"]
)
def test_an_op_that_allocates_is_found(body):
    assert list(wrapper_faults(f"def op(x, w, *, out):\n    {body}\n"))


def test_what_keeps_the_rules_passes():
    body = "run(matmul, v.x, w, out=v.h)\n        self.f(run, v, w)\n        n = range(len(w))"
    assert list(faults(f"class D:\n    def f(self, run, v, w):\n        {body}\n")) == []
