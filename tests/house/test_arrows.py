"""Contract under test: includes and imports between the source folders ("rooms") point one way. In
csrc the order is probe -> bind -> decode -> round -> model -> ops -> ring -> state -> exec -> core.
The rooms of sbrt and bench have an order, too. No room has a cycle of imports. Every check is tried
on a wrong tree first."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A room may include only rooms to its right.
ROOMS = ("probe", "bind", "decode", "round", "model", "ops", "ring", "state", "exec", "core")
SUFFIXES = {".h", ".inc", ".cc", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)

# {folder: (its installed name, our packages that its modules may import)}. No folder may import
# tests or tools.
OURS = {"sbrt", "bench", "tests", "tools", "triton_kernels"}
FOLDERS = {
    "triton_kernels": ("sbrt.triton_kernels", {"sbrt.triton_kernels"}),
    "sbrt": ("sbrt", {"sbrt"}),
    "bench": ("bench", {"sbrt", "bench"}),
}
# Inside sbrt a room may import only rooms to its right. Modules outside every room belong to
# `engine`, except those of ENTRY and BASE.
SBRT_ROOMS = ("entry", "tools", "server", "engine", "serve", "gpu", "trace", "model", "base")
ENTRY = {"__main__", "collect_env"}  # modules that `python -m` runs
BASE = {"_core", "check", "config", "console", "cores", "errors", "files", "methods", "outputs"}
BASE |= {"sampling"}
OWN_RULES = {"reference", "triton_kernels"}

# PRIVATE: packages that no other package may import. ALONE: packages that may import none of our
# other packages.
PRIVATE = {"bench.peers", "bench.clients"}  # they are separate programs
# these packages run in environments without sbrt
ALONE = {"bench.peers.workers", "bench.clients.workers"}
# Inside bench a room may import only rooms to its right. Modules outside every room belong to
# `commands`.
BENCH_ROOMS = ("commands", "clients", "peers", "sweep", "kernels", "lanes", "gpu", "models")
HEAVY = {"torch", "triton", "transformers", "matplotlib", "flash_attn"}
HEAVY |= {"asyncio", "starlette", "uvicorn", "jinja2", "prometheus_client"}  # used by the server


def include_faults(csrc):
    """Return the includes in `csrc` that point to a room further left in ROOMS, or to no room."""
    faults = []
    for path in sorted(p for p in csrc.rglob("*") if p.suffix in SUFFIXES):
        room = path.relative_to(csrc).parts[0]
        if room not in ROOMS:
            faults.append(f"{path.relative_to(csrc)}: {room} is not a room")
            continue
        for name in INCLUDE.findall(path.read_text()):
            other = name.split("/")[0]
            if other not in ROOMS or ROOMS.index(other) < ROOMS.index(room):
                faults.append(f'{path.relative_to(csrc)} includes "{name}"')
    return faults


def include_graph(csrc):
    """Return {unit: units that it includes}. A unit is a header with the sources of the same
    name."""
    graph = {}
    for path in (p for p in csrc.rglob("*") if p.suffix in SUFFIXES):
        unit = str(path.relative_to(csrc).with_suffix(""))
        names = {str(Path(name).with_suffix("")) for name in INCLUDE.findall(path.read_text())}
        graph.setdefault(unit, set()).update(names - {unit})
    return graph


def imported_modules(tree, module, is_package):
    """Return the absolute names imported anywhere in `tree`. `from a import b` gives both a and
    a.b."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            yield ".".join(base)
            yield from (".".join([*base, alias.name]) for alias in node.names)


def import_time_only(tree):
    """Return the module without function bodies and without `if TYPE_CHECKING:`."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

        def visit_If(self, node):
            if "TYPE_CHECKING" in ast.dump(node.test):
                return None
            return self.generic_visit(node)

    return Strip().visit(tree)


def python_modules(root, folder):
    """Return (dotted name, path, is_package) of every module in root/folder. The name is that of
    the installed module."""
    for path in sorted((root / folder).rglob("*.py")):
        inner = path.relative_to(root / folder).with_suffix("").parts
        is_package = inner[-1] == "__init__"
        name = ".".join([FOLDERS[folder][0], *(inner[:-1] if is_package else inner)])
        yield name, path, is_package


def below(name, package):
    """True if `name` is the package or is inside it."""
    return name == package or name.startswith(f"{package}.")


def allowed(name, roots):
    return name.split(".")[0] not in OURS or any(below(name, root) for root in roots)


def allowed_inside(module, name):
    """True if the tables PRIVATE and ALONE let `module` import `name`."""
    for package in ALONE:
        if below(module, package) and name.split(".")[0] in OURS and not below(name, package):
            return False
    return not any(below(name, p) and not below(module, p) for p in PRIVATE)


def python_faults(root):
    """Return the imports that break the rules for a module's folder, including imports inside
    functions."""
    faults = []
    for folder, (_, roots) in FOLDERS.items():
        for module, path, is_package in python_modules(root, folder):
            for name in imported_modules(ast.parse(path.read_text()), module, is_package):
                if not (allowed(name, roots) and allowed_inside(module, name)):
                    faults.append(f"{path.relative_to(root)} imports {name}")
    return faults


def room_of(module):
    """Return the index of a module's room in the rooms of sbrt or of bench. Return None for a
    module with its own rules."""
    folder, name = module.split(".")[:2]
    if folder == "bench":
        return BENCH_ROOMS.index(name if name in BENCH_ROOMS else "commands")
    if name in OWN_RULES:
        return None
    place = "entry" if name in ENTRY else "base" if name in BASE else name
    return SBRT_ROOMS.index(place if place in SBRT_ROOMS else "engine")


def room_faults(root, folder="sbrt"):
    """Return the imports that point to a room further left in the list of rooms, including imports
    inside functions."""
    faults = []
    for module, names in import_graph(root, folder, in_functions=True).items():
        if module == folder or room_of(module) is None:
            continue
        for name in names:
            is_ruled = below(name, folder) and name != folder and room_of(name) is not None
            if is_ruled and room_of(name) < room_of(module):
                faults.append(f"{module} imports {name}")
    return faults


def import_graph(root, folder="sbrt", in_functions=False):
    """Return {module: names that it imports} for a folder. `in_functions`: also the imports inside
    functions."""
    graph = {}
    for module, path, is_package in python_modules(root, folder):
        tree = ast.parse(path.read_text())
        tree = tree if in_functions else import_time_only(tree)
        graph[module] = set(imported_modules(tree, module, is_package))
    return graph


def first_cycle(graph):
    """Return a cycle among the modules or units of `graph` as a list of names, or None.

    An edge to a package from inside it does not count, because submodules import their package
    first.
    """
    state, path = {}, []

    def visit(module):
        state[module] = "open"
        path.append(module)
        for other in sorted(graph[module] & graph.keys()):
            if below(module, other):
                continue
            if state.get(other) == "open":
                return [*path[path.index(other) :], other]
            if other not in state and (found := visit(other)):
                return found
        state[module] = "done"
        path.pop()
        return None

    for module in sorted(graph):
        if module not in state and (found := visit(module)):
            return found
    return None


def reached_from(graph, start):
    """Return every name that importing `start` imports, through modules of sbrt."""
    seen, waiting = set(), {start}
    while waiting:
        seen |= waiting
        waiting = set().union(*(graph.get(name, ()) for name in waiting)) - seen
    return seen


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("core/a.h", '#include "exec/b.h"'),
        ("exec/a.h", '#include "state/b.h"'),
        ("ring/a.cc", '  #  include "model/b.h"'),
        ("ops/a_avx2.cc", '#include "bind/b.h"'),
        ("exec/cpu/a.cc", '#include "worker.h"'),
        ("ops/a.inc", '#include "../round/b.h"'),
        ("util/a.h", ""),
    ],
    ids=str,
)
def test_an_include_pointing_back_is_found(tmp_path, file, line):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(f'#include <vector>\n#include "core/check.h"\n{line}\n')
    assert len(include_faults(tmp_path)) == 1


def test_includes_point_one_way():
    assert (ROOT / "csrc" / "core").is_dir()
    assert include_faults(ROOT / "csrc") == []


def test_a_cycle_of_includes_is_found(tmp_path):
    (tmp_path / "round").mkdir()
    for name, other in (("a.cc", "a.h"), ("a.h", "b.h"), ("b.h", "c.h"), ("b.cc", "b.h")):
        (tmp_path / "round" / name).write_text(f'#include "round/{other}"\n')
    assert first_cycle(include_graph(tmp_path)) is None
    (tmp_path / "round" / "c.cc").write_text('#include "round/a.h"\n')
    found = first_cycle(include_graph(tmp_path))
    assert found == ["round/a", "round/b", "round/c", "round/a"]


def test_includes_form_no_cycle():
    """A header and its sources count as one unit, because the compiler does not see a cycle through
    a source."""
    graph = include_graph(ROOT / "csrc")
    assert len(graph) > 50
    assert first_cycle(graph) is None


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("sbrt/a.py", "from bench import decode"),
        ("sbrt/a.py", "def f():\n    import tests.helpers"),
        ("sbrt/a.py", "import triton_kernels.norm"),
        ("triton_kernels/a.py", "from sbrt import engine"),
        ("triton_kernels/a.py", "from .. import engine"),
        ("triton_kernels/a.py", "import triton_kernels.norm"),
        ("bench/a.py", "from tools import train_demo"),
        ("bench/a.py", "def f():\n    from .peers import lines"),
        ("bench/peers/workers/a.py", "from sbrt import Engine"),
        ("bench/peers/workers/a.py", "from ..lines import ratio"),
    ],
    ids=str,
)
def test_an_import_pointing_back_is_found(tmp_path, file, line):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(f"import numpy\nfrom . import other\n{line}\n")
    assert python_faults(tmp_path)


def test_imports_point_one_way():
    assert python_faults(ROOT) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("model/a.py", "from ..serve import pair"),
        ("serve/a.py", "from ..engine import Engine"),
        ("config.py", "def f():\n    from .model import hub"),
        ("engine.py", "import sbrt.tools.compare"),
        ("trace/a.py", "from ..gpu.lane import Lane"),
    ],
    ids=str,
)
def test_an_import_between_rooms_that_points_back_is_found(tmp_path, module, line):
    path = tmp_path / "sbrt" / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("from sbrt import errors, methods\n")
    assert room_faults(tmp_path) == []
    path.write_text(f"import numpy\n{line}\n")
    assert room_faults(tmp_path)


def test_the_rooms_of_sbrt_point_one_way():
    folders = {path.parent.name for path in (ROOT / "sbrt").glob("*/__init__.py")}
    assert folders <= {*SBRT_ROOMS, *OWN_RULES}
    assert room_faults(ROOT) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("models/a.py", "from ..lanes.__main__ import main"),
        ("gpu/a.py", "def f():\n    from bench import kernels"),
        ("lanes/a.py", "import bench.decode"),
        ("sweep/a.py", "from ..peers import lines"),
    ],
    ids=str,
)
def test_an_import_between_rooms_of_bench_that_points_back_is_found(tmp_path, module, line):
    path = tmp_path / "bench" / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("from bench.models import sizes\n")
    assert room_faults(tmp_path, "bench") == []
    path.write_text(f"import numpy\n{line}\n")
    assert room_faults(tmp_path, "bench")


def test_the_rooms_of_bench_point_one_way():
    folders = {path.parent.name for path in (ROOT / "bench").glob("*/__init__.py")}
    assert folders == {*BENCH_ROOMS} - {"commands"}
    assert room_faults(ROOT, "bench") == []


def test_a_cycle_is_found(tmp_path):
    (tmp_path / "sbrt").mkdir()
    (tmp_path / "sbrt" / "__init__.py").write_text("from .a import x")
    (tmp_path / "sbrt" / "a.py").write_text("from . import b")
    (tmp_path / "sbrt" / "b.py").write_text("import sbrt.c")
    (tmp_path / "sbrt" / "c.py").write_text("def later():\n    import sbrt.a")
    assert first_cycle(import_graph(tmp_path)) is None
    (tmp_path / "sbrt" / "c.py").write_text("from sbrt.a import x")
    assert first_cycle(import_graph(tmp_path)) == ["sbrt.a", "sbrt.b", "sbrt.c", "sbrt.a"]


def test_a_cycle_through_a_function_is_found_in_bench(tmp_path):
    (tmp_path / "bench" / "peers").mkdir(parents=True)
    (tmp_path / "bench" / "__init__.py").write_text("")
    (tmp_path / "bench" / "peers" / "__init__.py").write_text("")
    (tmp_path / "bench" / "a.py").write_text("def later():\n    from bench.b import x")
    (tmp_path / "bench" / "b.py").write_text("from sbrt import flags\nfrom . import c")
    (tmp_path / "bench" / "c.py").write_text("from .peers import d")
    (tmp_path / "bench" / "peers" / "d.py").write_text("from . import e\nimport bench.c as c")
    found = first_cycle(import_graph(tmp_path, "bench"))
    assert found == ["bench.c", "bench.peers.d", "bench.c"]
    (tmp_path / "bench" / "peers" / "d.py").write_text("from ..a import y")
    assert first_cycle(import_graph(tmp_path, "bench")) is None
    found = first_cycle(import_graph(tmp_path, "bench", in_functions=True))
    assert found == ["bench.a", "bench.b", "bench.c", "bench.peers.d", "bench.a"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_modules_import_each_other_without_a_cycle(folder):
    """Imports inside functions count too: they hide a cycle, but do not remove it."""
    graph = import_graph(ROOT, folder, in_functions=True)
    assert len(graph) > 5
    assert first_cycle(graph) is None


def test_a_heavy_import_is_found(tmp_path):
    (tmp_path / "sbrt").mkdir()
    (tmp_path / "sbrt" / "__init__.py").write_text("from .a import x")
    (tmp_path / "sbrt" / "a.py").write_text("try:\n    import torch.nn\nexcept ImportError: ...")
    assert "torch.nn" in reached_from(import_graph(tmp_path), "sbrt")


def test_import_sbrt_reaches_nothing_heavy():
    names = {name.split(".")[0] for name in reached_from(import_graph(ROOT), "sbrt")}
    assert not names & HEAVY


def test_only_commands_know_the_server():
    """The server is an optional extra, so `import sbrt` in another program must not need it."""
    graph = import_graph(ROOT, in_functions=True)
    knows = {m for m, names in graph.items() if any(below(name, "sbrt.server") for name in names)}
    commands = {"sbrt.tools.serve", "sbrt.tools.draft.chat"}  # draft.chat renders a template
    assert {m for m in knows if not below(m, "sbrt.server")} == commands


def test_the_oracle_does_not_ask_the_engine():
    names = set()
    for module, path, is_package in python_modules(ROOT, "sbrt"):
        if module.startswith("sbrt.reference"):
            names |= set(imported_modules(ast.parse(path.read_text()), module, is_package))
    ours = {name for name in names if name.split(".")[0] == "sbrt"}
    assert ours
    assert all(name == "sbrt.reference" or name.startswith("sbrt.reference.") for name in ours)
