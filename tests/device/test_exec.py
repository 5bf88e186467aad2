"""Contract under test: the cuda body on a device. Streams keep the order of events, a fused graph
does what its parts do, ops of a round leave the very block that the host's leave, records are whole
when their event is, the host's wait ends, and a device that broke says where and goes on saying it
(exec_main.cu)."""

import pytest

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def program(programs, nvcc, tmp_path_factory):
    """exec_main, for the device that is here."""
    made = tmp_path_factory.mktemp("gpu") / "exec_main"
    nvcc.build(made, "-arch=native", strict=False)  # whatever a newer compiler warns of
    return made


@pytest.mark.parametrize("part", ["order", "fused", "ops", "record", "never", "sticky"])
def test_on_a_device(programs, program, part):
    done = programs.run(program, part)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ok {part}" in done.stdout
