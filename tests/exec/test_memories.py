"""Contract under test: a dry backend may have two memories. An op that accesses the memory of
another stream faults, also on dry_cuda. Mail copies from one memory to the other. The order checker
reports a mail that is missing, and a mail that no event or wait orders."""

import signal

import pytest

each_backend = pytest.mark.parametrize("backend", [(), ("device",)], ids=["host", "device"])


@pytest.fixture(scope="module")
def program(programs):
    return programs.build("memories_main", ["core", "exec"])


@each_backend
def test_a_lane_has_its_memory_and_mail(programs, program, backend):
    done = programs.run(program, "own", *backend)
    assert done.stdout == "ok\n", done.stdout + done.stderr


@each_backend
def test_an_op_that_accesses_the_other_memory_faults(programs, program, backend):
    assert programs.run(program, "other", *backend).returncode == -signal.SIGSEGV
