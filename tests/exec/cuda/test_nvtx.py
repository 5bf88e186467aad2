"""Contract under test: an engine with the option nvtx makes NVTX ranges in the domain `sbrt`, for
rounds, graphs and prefill. Other engines make none. A build without the NVTX headers refuses the
option."""

import os
import subprocess
import sys

import pytest

from sbrt import InvalidInputError, _core, build_info

RUN = """
from sbrt import _core
toys = _core.Toy(vocab=32, seed=7), _core.Toy(vocab=32, seed=7, noise16=6)
core = _core.EngineCore(*toys, max_model_len=200, num_threads=2, nvtx={nvtx})
core.begin([1, 2, 3] * 30, _core.Sampling(), _core.Policy(gamma=4, branches=1), 20)
while core.seat(0).finish_reason is None:
    core.run()
"""
needs_headers = pytest.mark.skipif(not build_info()["cuda"], reason="built without NVTX")


@pytest.fixture(scope="module")
def said(nvtx_log):
    """Return a function said(nvtx) that runs a sequence in an engine. It returns the lines that a
    stand-in for a profiler writes."""

    def run(nvtx):
        command = [sys.executable, "-c", RUN.format(nvtx=nvtx)]
        environment = os.environ | nvtx_log
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stderr.splitlines()

    return run


@needs_headers
def test_ranges_name_rounds_graphs_and_prefill(said):
    lines = said(True)
    assert lines[0] == "domain sbrt"
    names = {line.split(" ", 2)[2] for line in lines[1:]}
    assert {"prefill", "round 1", "round 2", "verify", "select", "settle", "step"} <= names
    rounds = [line for line in lines if line.startswith("range 0 round ")]
    assert rounds == [f"range 0 round {i + 1}" for i in range(len(rounds))]
    assert {line.split(" ")[1] for line in lines[1:]} == {"0"}  # each range was ended


@needs_headers
def test_nobody_is_told_what_was_not_asked_for(said):
    assert said(False) == []


@pytest.mark.skipif(build_info()["cuda"], reason="built with NVTX")
def test_a_build_without_them_refuses():
    with pytest.raises(InvalidInputError, match="nvtx: expected a build with a CUDA compiler"):
        _core.EngineCore(_core.Toy(vocab=32, seed=7), None, max_model_len=9, nvtx=True)
