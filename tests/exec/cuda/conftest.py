"""Programs with the cuda backend, over the runtime of fake_cuda.cc."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fake(nvcc, programs):
    """fake(name, flags, replaced): a program, with other texts for files of csrc."""

    def built(name, flags=programs.plain, replaced=None):
        sources = [Path(__file__).parent / "fake_cuda.cc", "core", "round/round.cc"]
        sources += [f"exec/{part}" for part in ("cuda", "cpu", "sim", "exec.cc", "order.cc")]
        return programs.build(
            name, sources, (*flags, "-DSBRT_WITH_CUDA=1", *nvcc.includes()), replaced
        )

    return built
