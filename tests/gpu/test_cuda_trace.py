"""Contract under test: the trace of the cuda body, over a CUDA runtime without a device. Slices and
waits are where the events' times say, in the host's clock; only a stream that is traced records
timed events, none is made in a round, the host waits for none, and hours do not blur them."""

import pytest

PARTS = ("slices", "quiet", "held", "far", "clock", "broken", "profile")


@pytest.fixture(scope="module")
def program(nvcc, tmp_path_factory):
    """trace_main with the runtime of fake_cuda.cc."""
    made = tmp_path_factory.mktemp("trace") / "trace_main"
    nvcc.build_without_device(made)
    return made


@pytest.mark.parametrize("part", PARTS)
def test_the_trace(programs, program, part):
    done = programs.run(program, part)
    assert done.stdout == f"ok {part}\n", done.stdout + done.stderr
    assert done.returncode == 0
