"""Contract under test: teams, streams and events of csrc/exec (exec_test.cc lists the promises).
ThreadSanitizer reports only the wait that the canary leaves out."""

import pytest

PROMISES = 16


@pytest.fixture(scope="module")
def plain(programs):
    return programs.build("exec_test", ["core", "exec"])


@pytest.fixture(scope="module")
def checked(programs, tsan):
    """Build the program with ThreadSanitizer; return its path."""
    return programs.build("exec_test", ["core", "exec"], tsan)


def check_kept(done):
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == PROMISES


def test_promises_are_kept(programs, plain):
    check_kept(programs.run(plain, 8))


@pytest.mark.exact
def test_promises_are_kept_for_long(programs, plain):
    check_kept(programs.run(plain, 400))


@pytest.mark.parametrize("scale", [10, pytest.param(60, marks=pytest.mark.exact)])
def test_thread_sanitizer_has_nothing_to_say(programs, checked, scale):
    check_kept(programs.run(checked, scale, **programs.reporting("tsan")))


def test_thread_sanitizer_reports_a_missing_wait(programs, checked):
    done = programs.run(checked, 30, "canary", **programs.reporting("tsan"))
    assert done.returncode == programs.reported
    assert "ThreadSanitizer: data race" in done.stderr
