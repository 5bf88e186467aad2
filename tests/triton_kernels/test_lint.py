"""Contract under test: properties of the kernels' sources that no test on a CPU can observe. Every
matrix product forbids TF32, which is the GPU's default but is not used by the interpreter. Every
masked load has a value for masked elements. No sum depends on the order of programs. No offset
overflows 32 bits."""

import ast
import re
from pathlib import Path

import pytest

KERNELS = sorted((Path(__file__).parents[2] / "triton_kernels").glob("*.py"))
ATOMICS = {"atomic_add", "atomic_max", "atomic_min", "atomic_xchg", "atomic_cas"}
# Names of arguments with integer memory, to which atomics may add.
COUNTER = re.compile(r"counter|_bin$", re.IGNORECASE)
STRIDE = re.compile(r"stride")
# Text of expressions that are 64 bits wide: a cast, a load of 64-bit values, or a sum with 64-bit
# zeros.
WIDE = re.compile(r"tl\.int64")


def jitted(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(
            "jit" in ast.dump(d) for d in node.decorator_list
        ):
            yield node


def calls(function, name):
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"tl.{name}":
            yield node


def keywords(call):
    return {k.arg: k.value for k in call.keywords}


def rounds_to_tf32(function):
    for call in calls(function, "dot"):
        precision = keywords(call).get("input_precision")
        if not (isinstance(precision, ast.Constant) and precision.value == "ieee"):
            yield f"line {call.lineno}: tl.dot without input_precision='ieee'"


def loads_garbage(function):
    for call in calls(function, "load"):
        given = keywords(call)
        if ("mask" in given or len(call.args) > 1) and "other" not in given:
            yield f"line {call.lineno}: a masked tl.load without other="


def is_integer(node):
    """Return True if a value is marked as an integer. Sums of integers do not depend on the order
    of the summands."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int)
    return ast.unparse(node).endswith((".to(tl.int32)", ".to(tl.int64)"))


def depends_on_arrival(function):
    for node in ast.walk(function):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name = node.func.attr
        is_count = name == "atomic_add" and is_integer(node.args[1])
        if name in ATOMICS and not (is_count and COUNTER.search(ast.unparse(node.args[0]))):
            yield f"line {node.lineno}: {name} of something that is not an integer counter"


def wide_names(function):
    """Return the names of values that are 64 bits wide. A name is 64 bits wide if a cast or another
    such name is assigned to it."""
    names, size = set(), -1
    while len(names) != size:
        size = len(names)
        for node in ast.walk(function):
            if isinstance(node, ast.Assign | ast.AugAssign) and is_wide(node.value, names):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {t.id for t in targets if isinstance(t, ast.Name)}
    return names


def is_wide(node, names):
    text = ast.unparse(node)
    if WIDE.search(text) or "load_int64" in text or "_ring_slot" in text:
        return True
    return any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(node))


def overflows(function):
    """Yield the products of a stride and a factor that is not 64 bits wide. Such a product may
    overflow."""
    names = wide_names(function)
    for node in ast.walk(function):
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
            continue
        for stride, factor in ((node.left, node.right), (node.right, node.left)):
            is_stride = isinstance(stride, ast.Name) and STRIDE.search(stride.id)
            if is_stride and not is_wide(factor, names):
                yield f"line {node.lineno}: {ast.unparse(node)} in 32 bits"


RULES = (rounds_to_tf32, loads_garbage, depends_on_arrival, overflows)


def broken(source):
    return [found for f in jitted(ast.parse(source)) for rule in RULES for found in rule(f)]


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_every_kernel_keeps_the_rules(path):
    assert broken(path.read_text()) == []


def test_there_are_kernels_to_check():
    found = [f.name for path in KERNELS for f in jitted(ast.parse(path.read_text()))]
    assert len(found) > 20
    assert sum(
        len(list(calls(f, "dot"))) for p in KERNELS for f in jitted(ast.parse(p.read_text()))
    )


BAD = {
    "tl.dot(a, b)": "without input_precision",
    "tl.dot(a, b, input_precision='tf32')": "without input_precision",
    "tl.dot(a, b, input_precision='ieee', allow_tf32=x)": None,
    "x = tl.load(P + o, mask=m)": "without other=",
    "x = tl.load(P + o, m)": "without other=",
    "x = tl.load(P + o, mask=m, other=0.0)": None,
    "x = tl.load(P + o)": None,
    "tl.atomic_add(Out + o, x)": "atomic_add of something",
    "tl.atomic_add(Sum, 1.0)": "atomic_add of something",
    "tl.atomic_add(p_bin, weight)": "atomic_add of something",
    "tl.atomic_add(Sum, x.to(tl.int64))": "atomic_add of something",
    "tl.atomic_max(Counters, 1)": "atomic_max of something",
    "tl.atomic_add(p_bin, units.to(tl.int64))": None,
    "tl.atomic_add(Counters + row, 1, sem='acq_rel')": None,
    "p = P + row * x_stride": "row * x_stride in 32 bits",
    "p = P + x_stride * tl.program_id(0)": "in 32 bits",
    "row = tl.program_id(0).to(tl.int64)\n    p = P + row * x_stride": None,
    "row = tl.program_id(0).to(tl.int64)\n    at = row + 1\n    p = P + at * x_stride": None,
    "p = P + (o + row.to(tl.int64)) * x_stride": None,
}


@pytest.mark.parametrize("body", BAD)
def test_what_breaks_a_rule_is_found(body):
    found = broken(f"@triton.jit\ndef k(P, x_stride, row, o, m):\n    {body}\n")
    if BAD[body] is None:
        assert found == []
    else:
        assert len(found) == 1
        assert BAD[body] in found[0]


def test_only_kernels_are_held_to_the_rules():
    assert broken("def twin(x, stride):\n    return x * stride\n") == []
