"""Contract under test: the files of the repository. No built file is tracked, and no file grows too
long."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("csrc", "sbrt", "triton_kernels", "tests", "bench", "tools")
SUFFIXES = {".h", ".inc", ".cc", ".cu", ".cuh", ".py"}
LONGEST = 450  # largest number of lines of a file; aim at 350

BUILT = """
.venv/bin/python
.venv-other/x
build/cp311-cp311-linux_x86_64/CMakeCache.txt
dist/sbrt.whl
sbrt/_core.cpython-311-x86_64-linux-gnu.so
sbrt/__pycache__/cli.cpython-311.pyc
.pytest_cache/x
.ruff_cache/x
.hypothesis/x
compare.png
compile_commands.json
""".split()
KEPT = """
csrc/core/check.h
sbrt/demo/target/model.safetensors
sbrt/demo/target/tokenizer.json
triton_kernels/norm.py
docs/measured/README.md
constraints.txt
.ci/run
""".split()


def test_files_that_run_first_are_there(request):
    """LONG_FILES lists the test files that run first. Without this test, a renamed file would
    silently run later."""
    [conftest] = [
        plugin
        for plugin in request.config.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None) == str(ROOT / "tests" / "conftest.py")
    ]
    assert [name for name in conftest.LONG_FILES if not (ROOT / "tests" / name).is_file()] == []
    paths = [item.path for item in request.session.items]
    places = {ROOT / "tests" / name: i for i, name in enumerate(conftest.LONG_FILES)}
    found = [places.get(path, len(places)) for path in paths]
    assert found == sorted(found)


# Folders of tests that belong to no room: checks of a device, other people's programs, shared
# helpers, and tests of the tree, of the tests themselves and under sanitizers.
APART = {"device", "clients", "common", "house", "faults", "sanitize"}
# {room without a folder of tests: the folder that has its tests}
ELSEWHERE = {
    "core": "model",
    "state": "round",
    "bind": "engine",
    "probe": "ops",
    "reference": "decode",
}
# Rooms of sbrt whose modules are in no folder (listed in tests/house/test_arrows.py).
LOOSE = {"base", "engine"}


def rooms(root):
    """Return the names of all rooms: folders of csrc and sbrt, LOOSE, and Python folders that are
    one room each."""
    csrc = {path.name for path in (root / "csrc").iterdir() if path.is_dir()}
    sbrt = {path.parent.name for path in (root / "sbrt").glob("*/__init__.py")}
    return csrc | sbrt | LOOSE | {"triton_kernels", "bench"}


def misplaced(root):
    """Return a sentence for each folder of tests without a room, and for each room without
    tests."""
    tests, there = root / "tests", rooms(root)
    places = [path.relative_to(tests).parts for path in tests.rglob("test_*.py")]
    tested = {parts[0] for parts in places if len(parts) > 1}
    found = [f"{parts[0]}: expected it in a folder" for parts in places if len(parts) == 1]
    found += [f"tests/{name}: no room" for name in sorted(tested - there - APART)]
    found += [f"{name}: no tests" for name in sorted(there - tested - ELSEWHERE.keys())]
    stale = [name for name in ELSEWHERE if name in tested or name not in there]
    return found + [f"{name}: has tests, or is no room any more" for name in stale]


def test_what_is_misplaced_is_found(tmp_path):
    places = {*ELSEWHERE.values(), *LOOSE, "triton_kernels", "bench", "house", "serve"}
    csrc = ("core", "state", "bind", "probe", "ops", "model", "round", "decode")
    for name in [*(f"csrc/{room}" for room in csrc),
                 *(f"sbrt/{room}" for room in ("reference", "serve")),
                 *(f"tests/{room}" for room in places)]:  # fmt: skip
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
        if name.startswith("tests/"):
            (tmp_path / name / "test_it.py").touch()
    assert misplaced(tmp_path) == []
    (tmp_path / "tests" / "test_it.py").touch()
    (tmp_path / "tests" / "serve").rename(tmp_path / "tests" / "python")
    (tmp_path / "tests" / "bench" / "test_it.py").rename(tmp_path / "tests" / "bench" / "it.py")
    (tmp_path / "csrc" / "state").rename(tmp_path / "csrc" / "ring")
    assert misplaced(tmp_path) == [
        "test_it.py: expected it in a folder", "tests/python: no room", "bench: no tests",
        "ring: no tests", "serve: no tests", "state: has tests, or is no room any more",
    ]  # fmt: skip


def test_the_tests_mirror_the_rooms():
    assert misplaced(ROOT) == []


@pytest.fixture
def ignored(tmp_path):
    """ignored(names): returns the names that .gitignore covers."""
    if shutil.which("git") is None:
        pytest.skip("git: expected on PATH to read .gitignore, found none")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)

    def check(names):
        command = ["git", "-c", "core.excludesFile=/dev/null", "-C", tmp_path, "check-ignore"]
        return subprocess.run([*command, *names], capture_output=True, text=True).stdout.split()

    return check


def test_what_tools_leave_behind_is_ignored(ignored):
    assert ignored(BUILT) == BUILT


def test_sources_and_checkpoints_are_not_ignored(ignored):
    assert ignored(KEPT) == []


def sources():
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return [path for path in files if path.suffix in SUFFIXES]


def test_no_file_is_too_long():
    lengths = {p.relative_to(ROOT): len(p.read_text().splitlines()) for p in sources()}
    assert {str(path): n for path, n in lengths.items() if n > LONGEST} == {}


def test_the_contract_of_the_core_stays_short():
    assert len((ROOT / "csrc" / "README.md").read_text().splitlines()) < 150


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_loop_of_a_round_stays_short():
    """round.cc has at most 60 lines, so that a reader can understand a whole round."""
    assert len((ROOT / "csrc" / "round" / "round.cc").read_text().splitlines()) <= 60


def test_the_ci_runs_what_the_readme_names():
    run = ROOT / ".ci" / "run"
    assert run.stat().st_mode & 0o111
    assert "make test" in run.read_text()


def pybind_guards(folder):
    """Return the files that take or release the GIL with pybind11's guards."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES]
    return [path.name for path in files if "gil_scoped_" in path.read_text()]


def test_the_gil_is_taken_by_our_guards_alone(tmp_path):
    """All code uses our own guards. pybind11's guards abort a program that ends while a daemon
    thread is inside a guard."""
    (tmp_path / "wrong.cc").write_text("const py::gil_scoped_release free;\n")
    assert pybind_guards(tmp_path) == ["wrong.cc"]
    assert [pybind_guards(ROOT / "csrc" / room) for room in ("bind", "probe")] == [[], []]
