"""Contract under test: a team of the cpu backend may be pinned, each member to one core. The team
is the first to touch the memory of its place. Cores that the process may not use are refused."""

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are pinned on Linux")


def test_members_run_on_their_cores(programs):
    done = programs.run(programs.build("pinned_main", ["core", "exec"]))
    assert done.stdout == "ok\n", done.stdout + done.stderr
