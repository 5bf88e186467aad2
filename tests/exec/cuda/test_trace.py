"""Contract under test: trace and launches of the cuda backend, over a CUDA runtime without a
device.

- Slices and waits have the times of their events on the host's clock, even after hours.
- Only a traced stream records timed events. None is created in a round, and the host waits for
  none.
- The host checks an event before it sleeps, so it does not sleep if the event is reached. It keeps
  a history of waiting times for each event.
- A fused graph is one launch, as long as its captured ops pick the graphs that they picked when it
  was fused.
- A graph with players (functions that the host calls instead of captured graphs) is never fused.
- With two devices, the stream's device is selected at every call. Mail is copied from one device to
  the other, only for the seats that take part.
"""

import pytest

PARTS = (
    "slices", "late", "quiet", "held", "far", "clock", "broken", "profile", "naps", "fused",
    "played",
)  # fmt: skip


@pytest.fixture(scope="module")
def program(fake):
    return fake("trace_main")


@pytest.mark.parametrize("part", PARTS)
def test_the_trace(programs, program, part):
    done = programs.run(program, part)
    assert done.stdout == f"ok {part}\n", done.stdout + done.stderr
    assert done.returncode == 0


def test_two_devices_send_each_other_mail(fake, programs):
    done = programs.run(fake("devices_main"))
    assert done.stdout == "ok\n", done.stdout + done.stderr


def test_a_profiler_is_told_of_each_graph(programs, program, nvtx_log):
    done = programs.run(program, "slices", **nvtx_log)
    names = [line.split(" ", 2)[2] for line in done.stderr.splitlines()[1:]]
    assert names == ["verify", "step", "step", "step", "select"] * 2  # in the order of the launches
