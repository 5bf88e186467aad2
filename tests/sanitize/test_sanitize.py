"""Contract under test: ThreadSanitizer, AddressSanitizer and UBSan have nothing to report, in the
C++ programs and in generations of Python; what they must report, they do (the canaries)."""

from __future__ import annotations

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
CSRC = ROOT / "csrc"
BUILDS = ROOT / "build" / "sanitize"  # kept: a second run compiles what changed
KINDS = {"tsan": "thread", "asan": "address,undefined"}
RUNTIMES = {"tsan": ("libtsan.so",), "asan": ("libasan.so", "libubsan.so")}
FLAGS = ["-std=c++20", "-O1", "-g", "-ffp-contract=off", "-fno-omit-frame-pointer", f"-I{CSRC}"]
REPORTED = 66  # exit code of a run with a report
# (kind, fault of csrc/exec/canary.h, what the report says)
CANARIES = [
    ("tsan", "race", "ThreadSanitizer: data race"),
    ("asan", "overflow", "AddressSanitizer: heap-buffer-overflow"),
    ("asan", "undefined", "runtime error: signed integer overflow"),
]
LEAK = ("asan", "leak", "LeakSanitizer: detected memory leaks")
# Fewer rounds than without a sanitizer: TSan is some 20 times slower.
PROGRAMS = {
    "exec_test": ["20"],
    "fuzz_ring": ["fuzz", "20000", "1"],
    "refuse_ring": [],
    "race_main": ["2000"],
}


def compiler() -> str:
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")


def options(kind: str, leaks: bool) -> dict[str, str]:
    """Every report ends the run with REPORTED. A leak is one where `leaks`: python itself frees
    little when it ends, so there only C++ programs are asked."""
    common = f"exitcode={REPORTED}"
    if kind == "tsan":
        return {"TSAN_OPTIONS": f"{common} halt_on_error=1"}
    return {
        "ASAN_OPTIONS": f"{common} detect_leaks={int(leaks)} detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": f"{common} halt_on_error=1 print_stacktrace=1",
    }


def run(command: list, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def check_silent(done: subprocess.CompletedProcess[str]) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Sanitizer" not in said
    assert "runtime error" not in said


def check_reported(done: subprocess.CompletedProcess[str], text: str) -> None:
    assert text in done.stderr, done.stdout + done.stderr
    assert done.returncode != 0


# --- C++ programs ---


def sources_of(name: str) -> list[Path]:
    """A program and the rooms it needs."""
    rooms = {"exec_test": ["core", "exec"], "race_main": ["core", "exec", "ring", "spec"]}
    parts = [p for room in rooms.get(name, ["core", "ring"]) for p in (CSRC / room).rglob("*.cc")]
    if name == "race_main":
        parts += [
            CSRC / "model" / "toy.cc",
            CSRC / "ops" / "choose.cc",
            CSRC / "ops" / "shaping.cc",
        ]
    (main,) = (ROOT / "tests").rglob(f"{name}.cc")
    return [main, *parts]


@cache
def program(name: str, kind: str) -> Path:
    path = BUILDS / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    newest = max(p.stat().st_mtime for p in CSRC.rglob("*.*"))
    main, *rest = sources_of(name)
    if not path.exists() or path.stat().st_mtime < max(newest, main.stat().st_mtime):
        flags = [*FLAGS, f"-fsanitize={KINDS[kind]}", "-DSBRT_CANARY", "-pthread"]
        subprocess.run([compiler(), *flags, main, *rest, "-o", path], check=True)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_has_nothing_to_report(name: str, kind: str) -> None:
    check_silent(run([program(name, kind), *PROGRAMS[name]], options(kind, leaks=True)))


@pytest.mark.parametrize(("kind", "fault", "text"), [*CANARIES, LEAK])
def test_a_fault_in_a_program_is_reported(kind: str, fault: str, text: str) -> None:
    command = [program("exec_test", kind), "canary", fault]
    check_reported(run(command, options(kind, leaks=True)), text)


# --- the extension module ---


@cache
def core(kind: str) -> Path:
    """The extension built for a sanitizer, beside the one that is installed."""
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


def python(kind: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`python arguments` with the sanitizer's runtime loaded first, and its build of the module."""
    found = [
        subprocess.check_output([compiler(), f"-print-file-name={name}"], text=True).strip()
        for name in RUNTIMES[kind]
    ]
    environment = options(kind, leaks=False) | {
        "LD_PRELOAD": " ".join(found),
        "PYTHONMALLOC": "malloc",  # python's own pools would hide an overflow
    }
    command = [sys.executable, HERE / "with_core.py", core(kind), *arguments]
    return run(command, environment)


@pytest.mark.parametrize("kind", KINDS)
def test_generations_have_nothing_to_report(kind: str) -> None:
    done = python(kind, HERE / "generation.py")
    check_silent(done)
    assert done.stdout == "fine\n"


@pytest.mark.parametrize(("kind", "fault", "text"), CANARIES)
def test_a_fault_beside_a_generation_is_reported(kind: str, fault: str, text: str) -> None:
    done = python(kind, HERE / "generation.py", fault)
    check_reported(done, text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "tests", ["spec/test_runtime.py", "python/test_lifecycle.py", "python/test_engine_machine.py"]
)
def test_other_tests_have_nothing_to_report(kind: str, tests: str) -> None:
    """What goes wrong on purpose: exceptions, interrupts, aborts, forgotten engines."""
    done = python(kind, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests" / tests)
    check_silent(done)
