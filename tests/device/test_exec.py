"""Contract under test: the cuda backend on a device (exec_main.cu). Streams keep the order of
events. A fused graph does the work of its parts. Ops of a round leave the same bytes as on the
host. A record is complete when its event is recorded. Waits of the host end. A broken device
reports the place of its error at every call."""

import pytest

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def program(programs, nvcc, tmp_path_factory):
    """Compile exec_main for this device; return its path."""
    made = tmp_path_factory.mktemp("gpu") / "exec_main"
    nvcc.build(made, "-arch=native", strict=False)  # not strict, because a newer compiler may warn
    return made


@pytest.mark.parametrize("part", ["order", "fused", "ops", "walks", "record", "never", "sticky"])
def test_on_a_device(programs, program, part):
    done = programs.run(program, part)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ok {part}" in done.stdout
