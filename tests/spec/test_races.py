"""Contract under test: between the lanes there is no data race, and every fence is needed. Under
ThreadSanitizer 50,000 rounds are clean; without a fence's wait they are not, except for the one
that the host keeps too."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
ROUND = CSRC / "spec" / "round.cc"
FLAGS = ["-std=c++20", "-O1", "-g", "-ffp-contract=off", "-fsanitize=thread", f"-I{CSRC}"]
REPORTED = 66  # exit code of a run that ThreadSanitizer complains about

# A wait of round.cc, and whether a run without it is caught. The draft's wait for the last outcome
# is kept by the host as well, as long as it enqueues a round only when it has read the last record.
WAITS = {
    "  if (drafts && !shape.serial) t.wait(fences.draft_ready, r);\n": True,
    "    t.wait(fences.draft_ready, r);\n": True,
    "  d.wait(fences.verify_done, r - 1);\n": False,
}

pytestmark = [pytest.mark.exact, pytest.mark.sanitize]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """build(round_cc) links the program with that text as csrc/spec/round.cc."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    folder = tmp_path_factory.mktemp("races")
    empty = folder / "empty.cc"
    empty.write_text("int main() {}\n")
    if subprocess.run(
        [compiler, *FLAGS, empty, "-o", folder / "empty"], capture_output=True
    ).returncode:
        pytest.skip("this compiler has no ThreadSanitizer")
    rooms = [p for room in ("core", "exec", "ring", "spec") for p in (CSRC / room).rglob("*.cc")]
    ops = [CSRC / "ops" / name for name in ("choose.cc", "shaping.cc")]
    sources = [HERE / "race_main.cc", CSRC / "model" / "toy.cc", *ops, *rooms]
    sources.remove(ROUND)

    def compiled(source):
        target = folder / f"{len(list(folder.iterdir()))}.o"
        subprocess.run([compiler, *FLAGS, "-c", source, "-o", target], check=True)
        return target

    objects = [compiled(source) for source in sources]

    def linked(text):
        source = folder / f"round{len(list(folder.iterdir()))}.cc"
        source.write_text(text)
        program = source.with_suffix("")
        command = [compiler, *FLAGS, "-pthread", *objects, compiled(source), "-o", program]
        subprocess.run(command, check=True)
        return program

    return linked


def run(program, rounds, options=""):
    environment = os.environ | {"TSAN_OPTIONS": f"exitcode={REPORTED} {options}"}
    return subprocess.run([program, str(rounds)], capture_output=True, text=True, env=environment)


def test_fifty_thousand_rounds_are_clean(build):
    done = run(build(ROUND.read_text()), 50_000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 50_000


@pytest.mark.parametrize("wait", WAITS, ids=str.strip)
def test_a_missing_wait(build, wait):
    text = ROUND.read_text()
    assert text.count(wait) == 1
    done = run(build(text.replace(wait, "")), 2000, "halt_on_error=1")
    if WAITS[wait]:
        assert done.returncode == REPORTED
        assert "ThreadSanitizer: data race" in done.stderr
    else:
        assert done.returncode == 0, done.stdout + done.stderr
