"""Contract under test: for each fault in FAULTS, at least one test of `make test` fails. `make
exact` copies the repository and inserts one fault at a time into the copy. The default tests only
check that the text to be replaced still exists. `SBRT_TREE=FOLDER` takes code and tests from
another checkout."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = Path(os.environ.get("SBRT_TREE", ROOT))
COPY = ROOT / "build" / "faults"  # never deleted, so that the next fault compiles only changes
TOP = (
    "CMakeLists.txt",
    "constraints.txt",
    "pyproject.toml",
    "Makefile",
    "README.md",
    "CONTRIBUTING.md",
)
FOLDERS = ("csrc", "sbrt", "triton_kernels", "bench", "tests", "tools", "docs")
LONGEST = 1800  # time limit of a test run in seconds: a fault may make a test hang
COLLECTION = re.compile("errors? during collection|ERROR collecting")


def load(name):
    spec = importlib.util.spec_from_file_location(f"faults_{name}", HERE / f"{name}.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LISTS = (
    "faults",
    "device_faults",
    "draft_faults",
    "logprob_faults",
    "look_up_faults",
    "memory_faults",
    "seat_faults",
)
FAULTS = tuple(fault for name in LISTS for fault in load(name).FAULTS)
ROOMS = {
    *("csrc/core", "csrc/exec", "csrc/state", "csrc/ring", "csrc/ops", "csrc/model"),
    *("csrc/round", "csrc/decode"),
    *("triton_kernels", "sbrt", "bench"),
}


def room_of(fault):
    parts = fault.file.split("/")
    return "/".join(parts[:2]) if parts[0] == "csrc" else parts[0]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.file}: {fault.name}")
def test_a_fault_has_its_place(fault):
    assert (ROOT / fault.file).read_text().count(fault.old) == 1
    assert fault.new != fault.old
    for test in fault.tests:
        assert (ROOT / "tests" / test.split("::")[0]).is_file()


def test_there_are_faults_in_every_room():
    rooms = Counter(map(room_of, FAULTS))
    assert rooms.keys() == ROOMS
    assert len(FAULTS) >= 30
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_an_interrupted_run_is_no_verdict(tmp_path):
    def run(text):
        (tmp_path / "test_it.py").write_text(text)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    code, said = run("def test_it():\n    raise KeyboardInterrupt\n")
    assert code == 2
    assert not is_verdict(code, said)
    code, said = run("raise ImportError\n")
    assert code == 2
    assert is_verdict(code, said)


class Tree:
    """A copy of the repository with its own build, in which files may be changed."""

    def __init__(self, source, folder):
        self.folder, self.is_built = folder, False
        for top in TOP:
            self._copy(source / top, folder / top)
        for top in FOLDERS:
            kept = {path.relative_to(source) for path in files_of(source / top)}
            for path in kept:
                self._copy(source / path, folder / path)
            for path in files_of(folder / top):
                if path.relative_to(folder) not in kept and path.suffix != ".so":
                    path.unlink()
        link = folder / "sbrt" / "triton_kernels"
        if not link.is_symlink():
            link.symlink_to(Path("..") / "triton_kernels")

    def write(self, file, text):
        """Change a file."""
        (self.folder / file).write_text(text)
        self.is_built = self.is_built and not file.startswith("csrc/")

    def build(self):
        """Compile the changed sources, and put the compiled modules into this tree's `sbrt`."""
        if self.is_built:
            return
        import pybind11

        made = self.folder / "build" / "core"
        cmake = Path(sys.executable).with_name("cmake")
        if not (made / "CMakeCache.txt").is_file():
            flags = ["-DSBRT_CUDA=OFF", f"-DPython_EXECUTABLE={sys.executable}", "-G", "Ninja"]
            flags += [f"-DCMAKE_MAKE_PROGRAM={cmake.with_name('ninja')}"]
            flags += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
            subprocess.run([cmake, "-S", self.folder, "-B", made, *flags], check=True)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "2")
        subprocess.run([cmake, "--build", made, "-j", jobs], check=True)
        modules = [*made.glob("_core*.so"), *made.glob("_probe*.so")]
        assert len(modules) == 2
        for module in modules:
            place = self.folder / "sbrt" / module.name
            place.unlink(missing_ok=True)  # a running process may have mapped the old file
            shutil.copyfile(module, place)
        self.is_built = True

    def fails(self, tests):
        """Run `tests`; return (True if some fail, pytest's output). Raises if pytest cannot run."""
        self.build()
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, *(f"tests/{test}" for test in tests)],
            cwd=self.folder,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join([str(HERE / "site"), str(self.folder)]),
                # A changed file may have the old file's modification time, so bytecode could be out
                # of date.
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            timeout=LONGEST,
        )
        said = done.stdout + done.stderr
        assert is_verdict(done.returncode, said), said
        return done.returncode != 0, said

    def _copy(self, source, target):
        if target.is_file() and target.read_bytes() == source.read_bytes():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def is_verdict(code, said):
    """True if pytest ran the tests, or could not import a module. In the second case pytest ends
    with 2, as it does after Ctrl-C."""
    return code in (0, 1) or (code == 2 and COLLECTION.search(said) is not None)


def files_of(folder):
    """Yield the files below a folder, without bytecode and without the link to triton_kernels."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder.parent).parts
        if (
            path.is_file()
            and "__pycache__" not in parts
            and parts[:2] != ("sbrt", "triton_kernels")
        ):
            yield path


@pytest.fixture(scope="session")
def tree():
    return Tree(SOURCE, COPY / "tree")


@pytest.fixture(scope="session")
def expect_green(tree):
    """expect_green(tests): checks that these tests pass without a fault."""
    found = {}

    def check(tests):
        if tests not in found:
            found[tests] = tree.fails(tests)
        failed, said = found[tests]
        assert not failed, f"they fail without a fault:\n{said}"

    return check


@pytest.mark.exact
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.file}: {fault.name}")
def test_a_fault_is_caught(tree, expect_green, fault):
    expect_green(fault.tests)
    text = (tree.folder / fault.file).read_text()
    assert text.count(fault.old) == 1
    tree.write(fault.file, text.replace(fault.old, fault.new))
    try:
        failed, said = tree.fails(fault.tests)
    finally:
        tree.write(fault.file, text)
    assert failed, f"caught by none of {fault.tests}:\n{said}"
