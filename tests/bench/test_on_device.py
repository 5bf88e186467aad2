"""Contract under test: without a GPU, the device benches say so in one sentence and fail. They
report a case correctly, and a case with a wrong result has no figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PARTS = ("first", "kernels", "products", "lanes", "rounds", "exact", "settings")
PARTS = (*PARTS, "launches", "integers", "seats", "families", "requests", "prefixes", "rejection")
PARTS = (*PARTS, "devices", "large", "sanitize")


def run(*arguments):
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def bench(code):
    done = run_code(f"from bench.kernels import on_device as g\nprint({code})")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run_code(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


COMMANDS = [
    ("bench.kernels", "--device", "cuda"),
    ("bench.lanes", "--device", "cuda"),
    ("tests.device.exact",),
    ("tests.device.rounds",),
    ("bench.gpu.assisted",),
    *(("tests.device.check", "--part", part) for part in PARTS),
]
# Runs the commands as `python -m` would, but all in one process, because importing torch is slow.
DRIVER = """
import contextlib, io, json, runpy, sys
found = []
for command in json.loads(sys.argv.pop()):
    sys.argv[1:] = command[1:]
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as error,
    ):
        try:
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code
    found.append((code, out.getvalue(), error.getvalue()))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def ended():
    """Return {command: (exit code, stdout, stderr)} for all COMMANDS."""
    command = [sys.executable, "-c", DRIVER, json.dumps(COMMANDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(zip(COMMANDS, json.loads(done.stdout), strict=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_gpu_it_says_so_and_fails(ended, command):
    code, out, error = ended[command]
    assert (code, out) == (2, "")
    (line,) = error.splitlines()
    assert "expected a CUDA device that torch can use, found none" in line


def test_a_part_that_does_not_exist():
    done = run("tests.device.check", "--part", "rings")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--part: expected one of {', '.join(PARTS)}, got rings" in done.stderr


def test_the_profiler_s_command_runs_this_bench():
    done = run("bench.kernels", "--device", "cuda", "--ncu", "--only", "choose")
    assert done.returncode == 0
    assert done.stdout.startswith("ncu ")
    assert done.stdout.rstrip().endswith(
        "-m bench.kernels --device cuda --seconds 0.1 --only choose"
    )


LINE = {"op": "choose", "shape": "16 x 9", "right": True, "kept": False, "us": 12.345}
LINE |= {"spread": [12.0, 13.0], "gb_per_s": 331.4, "share_of_roof": 0.0812}
LINE |= {"expected_us": 10.0, "ratios": {"torch sort": 20.3}}


def test_a_line():
    text = "choose | 16 x 9 | 12.35 (12.00-13.00) | 331 | 8 | 10.0 MISSED | 20.30 x torch sort"
    assert bench(f"g.render({LINE!r})") == text.replace("12.35", f"{12.345:.2f}")


def test_a_wrong_result_has_no_figures():
    wrong = {"op": "choose", "shape": "16 x 9", "right": False, "difference": 0.25}
    assert bench(f"g.render({wrong!r})") == "choose | 16 x 9 | WRONG: differs by 0.25"
