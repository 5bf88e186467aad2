"""Contract under test: there is no data race between the lanes, and every wait is needed.
ThreadSanitizer reports nothing in 50,000 rounds of every method. With rounds enqueued ahead, only
the waits of round.cc keep order, and each wait that is left out is reported. Both hold for rounds
of an engine and for rounds of ops that only access memory."""

import pytest

ROUND = "round/round.cc"

# The waits of round.cc. A program that lacks one of them must be reported. The host enqueues a
# round before it reads the last record, so only these waits keep the draft from running too early.
WAITS = (
    "  if (shape.burst > 0) t.wait(fences.chain_ready, r);\n",
    "  if (shape.gamma > 0) t.wait(fences.draft_ready, r);\n",
    "  d.wait(fences.verify_done, r - 1);\n",
)

exact = pytest.mark.exact
sanitize = pytest.mark.sanitize  # tests/sanitize runs the unchanged program, too, for fewer rounds
each_wait = pytest.mark.parametrize(
    "wait", WAITS, ids=lambda wait: wait.split("fences.")[1].split(",")[0]
)


@pytest.fixture(scope="module")
def text(programs):
    return programs.text(ROUND)


@pytest.fixture
def run(programs, tsan, text):
    """Return a function run(without, *arguments). It compiles race_main without the line `without`
    of round.cc, and runs it."""

    def run(without, *arguments):
        replaced = {ROUND: text.replace(without, "")} if without else {}
        program = programs.build("race_main", programs.rounds, tsan, replaced)
        return programs.run(program, *arguments, **programs.reporting("tsan"))

    return run


def check_reported(done):
    """Check that the program fails, or that ThreadSanitizer reports a race. The program fails if it
    gets different tokens, or if an op reads KV or rows that do not exist yet."""
    assert done.returncode != 0, done.stdout
    told = ("other tokens", "toy lane: the row at position", "toy lane: rows: expected")
    assert "ThreadSanitizer: data race" in done.stderr or any(text in done.stdout for text in told)


def test_every_wait_is_listed(text):
    assert text.count(".wait(") == len(WAITS)
    assert all(text.count(wait) == 1 for wait in WAITS)


@exact
def test_fifty_thousand_rounds_are_clean(run):
    done = run(None, 50_000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 50_000


@exact
@sanitize
def test_rounds_ahead_are_clean(run):
    done = run(None, 20_000, "ahead")
    assert done.returncode == 0, done.stdout + done.stderr


@exact
@sanitize
@each_wait
def test_a_missing_wait_in_rounds_ahead(run, wait):
    check_reported(run(wait, 2000, "ahead"))


@exact
@sanitize
@each_wait
def test_a_missing_wait_in_an_engine(run, wait):
    check_reported(run(wait, 2000))
