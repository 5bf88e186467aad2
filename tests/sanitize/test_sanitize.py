"""Contract under test: ThreadSanitizer, AddressSanitizer and UBSan report nothing in the C++
programs and in generations from Python. They do report the deliberate faults of
csrc/exec/canary.h."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.sanitize

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILDS = ROOT / "build" / "sanitize"  # kept, so that a second run compiles only changes
KINDS = {"tsan": "thread", "asan": "address,undefined"}
RUNTIMES = {"tsan": ("libtsan.so",), "asan": ("libasan.so", "libubsan.so")}
# (kind, fault of csrc/exec/canary.h, text of the report)
CANARIES = [
    ("tsan", "race", "ThreadSanitizer: data race"),
    ("asan", "overflow", "AddressSanitizer: heap-buffer-overflow"),
    ("asan", "undefined", "runtime error: signed integer overflow"),
]
LEAK = ("asan", "leak", "LeakSanitizer: detected memory leaks")
# program: (folders of csrc, arguments). The programs run fewer rounds than without a sanitizer,
# because ThreadSanitizer makes rounds 20 times slower.
PROGRAMS = {
    "exec_test": (["core", "exec"], [20]),
    "fuzz_ring": (["core", "ring"], ["fuzz", 20_000, 1]),
    "refuse_ring": (["core", "ring"], []),
    "race_main": (None, [2000]),  # None: the sources in Programs.rounds
}


def check_silent(done: subprocess.CompletedProcess[str]) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Sanitizer" not in said
    assert "runtime error" not in said


def check_reported(done: subprocess.CompletedProcess[str], text: str) -> None:
    assert text in done.stderr, done.stdout + done.stderr
    assert done.returncode != 0


# --- C++ programs ---


def run(programs, kind: str, name: str, *arguments: object):
    """Build the program `name` for the sanitizer `kind`, run it, and return the finished process.
    Its object files of csrc are those of the extension module, so that each is compiled once."""
    flags = getattr(programs, kind)
    programs.builds[flags] = core(kind).parent
    parts = programs.rounds if name == "race_main" else PROGRAMS[name][0]
    program = programs.build(name, parts, flags)
    return programs.run(program, *arguments, **programs.reporting(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_has_nothing_to_report(programs, name: str, kind: str) -> None:
    _, arguments = PROGRAMS[name]
    check_silent(run(programs, kind, name, *arguments))


@pytest.mark.parametrize(("kind", "fault", "text"), [*CANARIES, LEAK])
def test_a_fault_in_a_program_is_reported(programs, kind: str, fault: str, text: str) -> None:
    check_reported(run(programs, kind, "exec_test", "canary", fault), text)


# --- the extension module ---


@cache
def core(kind: str) -> Path:
    """Build the extension for a sanitizer in a separate folder, and return its path."""
    folder = BUILDS / kind / "core"
    cmake = [shutil.which("cmake"), "-S", ROOT, "-B", folder, f"-DSBRT_SANITIZE={KINDS[kind]}"]
    cmake += ["-DSBRT_CUDA=OFF", "-DCMAKE_BUILD_TYPE=Sanitize", "-DCMAKE_CXX_FLAGS_SANITIZE=-O1"]
    cmake += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11_folder()}"]
    subprocess.run([*cmake, *(["-G", "Ninja"] if shutil.which("ninja") else [])], check=True)
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "2")
    subprocess.run([cmake[0], "--build", folder, "-j", jobs], check=True)
    (found,) = folder.glob("_core*.so")
    return found


def pybind11_folder() -> str:
    import pybind11

    return pybind11.get_cmake_dir()


def python(programs, kind: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `python arguments` with a sanitizer's runtime preloaded, and with the extension that was
    built for this sanitizer."""
    found = [
        programs.run(programs.compiler, f"-print-file-name={name}").stdout.strip()
        for name in RUNTIMES[kind]
    ]
    environment = programs.reporting(kind, leaks=False) | {
        "LD_PRELOAD": " ".join(found),
        "PYTHONMALLOC": "malloc",  # Python's own pools would hide an overflow
        "PYTHONPATH": str(HERE / "site"),
        "SBRT_CORE": str(core(kind)),
        "SBRT_EXAMPLES": "15",  # number of examples of the state-machine test
    }
    return programs.run(sys.executable, *arguments, **environment)


@pytest.mark.parametrize("kind", KINDS)
def test_generations_have_nothing_to_report(programs, kind: str) -> None:
    done = python(programs, kind, HERE / "generation.py")
    check_silent(done)
    assert done.stdout == "fine\n"


@pytest.mark.parametrize(("kind", "fault", "text"), CANARIES)
def test_a_fault_beside_a_generation_is_reported(
    programs, kind: str, fault: str, text: str
) -> None:
    done = python(programs, kind, HERE / "generation.py", fault)
    check_reported(done, text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "tests",
    [
        "decode/test_engine_core.py",
        # Runs of the method `auto`, with one thread and with two.
        "decode/test_auto.py::test_slices_and_backends_change_nothing",
        "engine/test_lifecycle.py",
        "engine/test_engine_machine.py",
        "engine/test_batch.py::test_seats_come_back",
    ],
)
def test_other_tests_have_nothing_to_report(programs, kind: str, tests: str) -> None:
    """The tests that run here make deliberate errors: exceptions, interrupts, aborts, engines left
    open."""
    done = python(
        programs, kind, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests" / tests
    )
    check_silent(done)


@pytest.mark.parametrize("kind", KINDS)
def test_a_crowd_has_nothing_to_report(programs, kind: str) -> None:
    """Many sequences come and go on the cpu backend, but fewer than in `make test`."""
    crowd = ROOT / "tests" / "decode" / "crowd.py"
    done = python(programs, kind, crowd, "--sequences", 96, "--seed", 2, "--cpu", 1.0)
    check_silent(done)
    assert json.loads(done.stdout.splitlines()[-1])["sequences"] >= 96
