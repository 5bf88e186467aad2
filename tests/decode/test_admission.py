"""Contract under test: a sequence enters a seat while other seats decode. No fence guards the
entry: the host fills the seat once nothing in flight uses it, and enqueues its first op afterwards.
The order checker and ThreadSanitizer report nothing. If a wait of the host is left out, or a launch
has a wrong seat, they report it."""

import pytest

ADMISSION = "decode/pump.cc"
# All waits that the host makes before it fills a seat.
WAITS = {
    "target's pieces": "  wait(r_.target.feed.fed, seats_[found].fed[0].last_piece());\n",
    "draft's pieces": "  wait(r_.draft.feed.fed, seats_[found].fed[1].last_piece());\n",
    "rounds": "  wait(fences_.verify_done, seats_[found].last_round);\n",
}
# {the fault: (file in csrc, its text, the replacement, part of the report)}
WRONG_SEATS = {
    "of the target's launch": (
        ADMISSION,
        "target.seats = members;",
        "target.seats = members << 1;",
        "which is not in its launch",
    ),
    "of the draft's launch": (
        ADMISSION,
        "draft.seats = drafting;",
        "draft.seats = drafting >> 1;",
        "which is not in its launch",
    ),
    "of a piece": (
        "decode/prompts.cc",
        "launch(graph, width, seats);",
        "launch(graph, width, seats << 1);",
        "which is not in its launch",
    ),
    "that the host fills": (
        "decode/resources.cc",
        "parts_of_seats()}, SeatSet{1} << seat);",
        "parts_of_seats()}, SeatSet{1} << (seat + 1) % count());",
        "host's start_sequence",
    ),
    "of an op": (
        "round/grow.cc",
        "extend_op(args.of(seat), scratch, Alone{});",
        "extend_op(args.of(seat), scratch, Alone{});\n"
        "    args.seats.at[(seat + 1) % args.seats.count].step += 1;",
        "order: extend wrote branches of seat ",
    ),
}
TURNS = 500

each_wait = pytest.mark.parametrize("wait", WAITS)


@pytest.fixture
def run(programs):
    """Return a function run(file, before, after, *arguments, flags=...). It replaces a text in a
    file of csrc, compiles the program and runs it."""

    def run(file, before, after, *arguments, flags=programs.plain, **environment):
        text = programs.text(file)
        assert text.count(before) == 1
        replaced = {file: text.replace(before, after)} if after != before else {}
        program = programs.build("admission_main", programs.rounds, flags, replaced)
        return programs.run(program, *arguments, **environment)

    return run


@pytest.fixture
def run_dry(run):
    return lambda file, before, after: run(file, before, after, TURNS, "dry")


@pytest.fixture
def run_tsan(run, programs, tsan):
    environment = programs.reporting("tsan")
    return lambda before, after, turns: run(
        ADMISSION, before, after, turns, flags=tsan, **environment
    )


@pytest.mark.exact
def test_nothing_is_unordered(run_dry):
    line = WAITS["rounds"]
    done = run_dry(ADMISSION, line, line)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split()[0]) > 20


@pytest.mark.exact
@each_wait
def test_a_missing_wait_is_reported(run_dry, wait):
    done = run_dry(ADMISSION, WAITS[wait], "")
    assert done.returncode == 1
    assert "nothing orders" in done.stdout
    assert "host's start_sequence" in done.stdout


@pytest.mark.exact
@pytest.mark.parametrize("where", WRONG_SEATS)
def test_a_wrong_seat_is_reported(run_dry, where):
    file, before, after, reported = WRONG_SEATS[where]
    done = run_dry(file, before, after)
    assert done.returncode == 1
    assert reported in done.stdout


@pytest.mark.exact
@pytest.mark.sanitize
def test_admissions_race_with_nothing(run_tsan):
    line = WAITS["rounds"]
    done = run_tsan(line, line, 2000)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.exact
@pytest.mark.sanitize
@each_wait
def test_a_missing_wait_is_a_race(run_tsan, wait):
    done = run_tsan(WAITS[wait], "", 2000)
    assert done.returncode != 0, done.stdout
    assert "ThreadSanitizer: data race" in done.stderr or "FAILED" in done.stdout
