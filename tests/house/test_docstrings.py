"""Contract under test: public names are documented. Every public class, function and method has a
docstring and types, in every folder of Python and in the stub of the binary module."""

import ast
from pathlib import Path

import pytest

import sbrt
from sbrt import _core, _probe

ROOT = Path(__file__).parents[2]
STUBS = {ROOT / "sbrt" / f"{module.__name__[5:]}.pyi": module for module in (_core, _probe)}
FOLDERS = ("sbrt", "triton_kernels", "bench", "tools")
FILES = [*(path for name in FOLDERS for path in sorted((ROOT / name).rglob("*.py"))), *STUBS]
FILES += [  # programs in tests/device
    path
    for path in sorted((ROOT / "tests" / "device").glob("*.py"))
    if not path.name.startswith(("test_", "conftest"))
]
UNTYPED = ROOT / "bench" / "peers" / "workers"  # programs that use packages without types
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def public(tree, prefix=""):
    """Return (name, node) of public classes and functions. A method's name begins with the name of
    its class. Fields are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.ClassDef, *FUNCTION)) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{prefix}{node.name}.")


def undocumented(source):
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) else ["the module"]
    return missing + [name for name, node in public(tree) if not ast.get_docstring(node)]


def untyped(source):
    """Return the functions, private ones too, with a parameter or a result without a type."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, FUNCTION) or is_kernel(node):
            continue
        a = node.args
        given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        if given and given[0].arg in ("self", "cls"):
            given = given[1:]
        if node.returns is None or any(arg.annotation is None for arg in given):
            found.append(node.name)
    return found


def is_kernel(node):
    """True for a Triton kernel, which takes its types from the call."""
    return any("jit" in ast.dump(decorator) for decorator in node.decorator_list)


def test_what_is_missing_is_found():
    source = "class A:\n  def f(self, x): ...\n  def _g(self): ...\n\ndef h() -> None:\n  'Does.'"
    assert undocumented(source) == ["the module", "A", "A.f"]
    assert untyped(source) == ["f", "_g"]
    assert untyped("@triton.jit\ndef k(X, n): ...\ndef f(*a, **b) -> int: ...") == ["f"]


def name_of(path):
    return str(path.relative_to(ROOT))


def test_every_folder_is_looked_into():
    there = {path.parent.relative_to(ROOT).as_posix() for path in FILES}
    assert there >= {*FOLDERS, "sbrt/gpu", "sbrt/reference", "bench/peers", "tests/device"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_public_name_has_a_docstring(path):
    assert undocumented(path.read_text()) == []


@pytest.mark.parametrize("path", [p for p in FILES if UNTYPED not in p.parents], ids=name_of)
def test_every_function_is_typed(path):
    assert untyped(path.read_text()) == []


def test_what_the_package_exports_is_documented_where_it_is_seen():
    for name in sbrt.__all__:
        assert getattr(sbrt, name).__doc__, name


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.stem)
def test_the_stub_and_the_binary_have_the_same_members(stub):
    """Everything in the stub is in the binary module. Every member of a class in the binary module
    is in the stub."""
    for node in ast.parse(stub.read_text()).body:
        if not isinstance(node, (ast.ClassDef, *FUNCTION)):
            continue
        real = getattr(STUBS[stub], node.name)
        assert real.__doc__, node.name
        if isinstance(node, ast.ClassDef) and not issubclass(real, Exception):
            named = {n.name for n in node.body if isinstance(n, FUNCTION)}
            named |= {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
            there = {name for name in vars(real) if not name.startswith("_")}
            assert there == {name for name in named if not name.startswith("_")}, node.name


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.stem)
def test_the_stub_names_all_that_is_imported(stub):
    body = ast.parse(stub.read_text()).body
    names = {getattr(node, "name", "") for node in body}
    names |= {ast.unparse(node.target) for node in body if isinstance(node, ast.AnnAssign)}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in (stub.stem, f"sbrt.{stub.stem}"):
                assert {alias.name for alias in node.names} <= names, name_of(path)


def test_the_package_does_without_the_probe():
    """A wheel does not contain `_probe`, the module with test-only functions."""
    for path in (ROOT / "sbrt").rglob("*.py"):
        assert "_probe" not in path.read_text(), name_of(path)
