"""Contract under test: `--processor-time` shows the most expensive tests, child processes
included. It also works if several processes share the tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import subprocess, sys, time

SPIN = "import time\\nwhile time.process_time() < 0.3: pass"

def test_that_waits():
    time.sleep(0.2)

def test_that_computes():
    subprocess.run([sys.executable, "-c", SPIN], check=True)
"""


@pytest.mark.parametrize("jobs", [(), ("--numprocesses", "2")], ids=["one process", "two"])
def test_the_most_expensive_test_is_shown_first(tmp_path, jobs):
    (tmp_path / "test_it.py").write_text(TESTS)
    plugin = ("-p", "tests.common.processor_time", "--processor-time", "1")
    command = [sys.executable, "-m", "pytest", "-q", *plugin, *jobs, str(tmp_path)]
    # The child gets no pytest options of this run.
    own = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}
    said = subprocess.run(
        command, cwd=ROOT, env=own, capture_output=True, text=True, check=True
    ).stdout
    [_, file, test, *_] = said[said.index("seconds of processor time") :].splitlines()
    assert float(file.split()[0]) >= 0.3
    assert file.endswith("test_it.py")
    assert test.endswith("::test_that_computes")
