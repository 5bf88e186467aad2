"""Contract under test: teams, streams and events of csrc/exec (exec_test.cc has the promises).
ThreadSanitizer has nothing to report, except a wait left out on purpose."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
SOURCES = [HERE / "exec_test.cc", *sorted((CSRC / "exec").rglob("*.cc"))]
FLAGS = ["-std=c++20", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}", "-pthread"]
TSAN = ["-O1", "-g", "-fsanitize=thread"]
REPORTED = 66  # exit code of a run that ThreadSanitizer complains about
PROMISES = 15


def compiler():
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """build(*flags) compiles exec_test.cc and gives the path of the program."""
    folder = tmp_path_factory.mktemp("exec")
    programs = {}

    def compiled(*flags):
        if flags not in programs:
            programs[flags] = folder / f"exec_test{len(programs)}"
            command = [compiler(), *FLAGS, *flags, *SOURCES, "-o", programs[flags]]
            subprocess.run(command, check=True)
        return programs[flags]

    return compiled


@pytest.fixture(scope="module")
def tsan(build, tmp_path_factory):
    """The program with ThreadSanitizer, where the compiler has it."""
    source = tmp_path_factory.mktemp("tsan") / "empty.cc"
    source.write_text("int main() {}\n")
    trial = [compiler(), *TSAN, source, "-o", source.with_suffix("")]
    if subprocess.run(trial, capture_output=True).returncode:
        pytest.skip("this compiler has no ThreadSanitizer")
    return build(*TSAN)


def run(*command, **environment):
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def check_kept(done):
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == PROMISES


def test_promises_are_kept(build):
    check_kept(run(build("-O2"), "40"))


@pytest.mark.exact
def test_promises_are_kept_for_long(build):
    check_kept(run(build("-O2"), "400"))


def test_thread_sanitizer_has_nothing_to_say(tsan):
    check_kept(run(tsan, "30", TSAN_OPTIONS=f"exitcode={REPORTED}"))


def test_thread_sanitizer_reports_a_missing_wait(tsan):
    done = run(tsan, "30", "canary", TSAN_OPTIONS=f"exitcode={REPORTED} halt_on_error=1")
    assert done.returncode == REPORTED
    assert "ThreadSanitizer: data race" in done.stderr
