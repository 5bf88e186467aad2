"""Fixture for programs that use the cuda backend with a CUDA runtime without a device
(fake_cuda.cc)."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fake(nvcc, programs):
    """Return a function fake(name, flags, replaced). It compiles a program with fake_cuda.cc and
    csrc, in which `replaced` gives other texts for some files. It returns the program's path."""

    def built(name, flags=programs.plain, replaced=None):
        sources = [Path(__file__).parent / "fake_cuda.cc", "core", "round/round.cc"]
        sources += [f"exec/{part}" for part in ("cuda", "cpu", "sim", "exec.cc", "order.cc")]
        return programs.build(
            name, sources, (*flags, "-DSBRT_WITH_CUDA=1", *nvcc.includes()), replaced
        )

    return built
