"""Contract under test: a sequence enters a seat while other seats decode. No fence guards the
entry: the host fills the seat once nothing in flight uses it, and enqueues its first op afterwards.
The order checker and ThreadSanitizer report nothing. If a wait of the host is left out, or a launch
has a wrong seat, they report it."""

import pytest

ADMISSION = "decode/pump.cc"
# All waits that the host makes before it fills a seat: {the wait: (file in csrc, its text, the text
# without the wait)}.
WAITS = {
    "target's pieces": (
        "decode/prompts.cc",
        "for (LaneUnit* unit : {&r_.target, &r_.draft}) {",
        "for (LaneUnit* unit : {&r_.draft}) {",
    ),
    "draft's pieces": (
        "decode/prompts.cc",
        "for (LaneUnit* unit : {&r_.target, &r_.draft}) {",
        "for (LaneUnit* unit : {&r_.target}) {",
    ),
    "rounds": (
        ADMISSION,
        "  r_.exec->reach(fences_.verify_done, seats_[found].last_round, Exec::kForever);\n",
        "",
    ),
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
        "round/ops.cc",
        "      Op::run(args, At{seat, block}, memory, Alone{});",
        "      Op::run(args, At{seat, block}, memory, Alone{});\n"
        "    if constexpr (std::is_same_v<Op, Extend>)\n"
        "      args.seats.at[(seat + 1) % args.seats.count].step += 1;",
        "order: extend wrote branches of seat ",
    ),
}
TURNS = 500

each_wait = pytest.mark.parametrize("wait", WAITS)


@pytest.fixture
def run(programs):
    """Return a function run(change, *arguments, flags=...). It compiles the program and runs it.

    change: (file in csrc, a text in it, the text to compile instead), or None."""

    def run(change, *arguments, flags=programs.plain, **environment):
        replaced = {}
        if change:
            file, before, after = change
            text = programs.text(file)
            assert text.count(before) == 1
            replaced[file] = text.replace(before, after)
        program = programs.build("admission_main", programs.rounds, flags, replaced)
        return programs.run(program, *arguments, **environment)

    return run


@pytest.fixture
def run_dry(run):
    return lambda change: run(change, TURNS, "dry")


@pytest.fixture
def run_tsan(run, programs, tsan):
    environment = programs.reporting("tsan")
    return lambda change, turns: run(change, turns, flags=tsan, **environment)


def test_each_text_is_in_the_code(programs):
    """The other tests are not in `make test`, so this one finds texts that have changed."""
    texts = [wait[:2] for wait in WAITS.values()] + [seat[:2] for seat in WRONG_SEATS.values()]
    assert [programs.text(file).count(before) for file, before in texts] == [1] * len(texts)


@pytest.mark.exact
def test_nothing_is_unordered(run_dry):
    done = run_dry(None)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split()[0]) > 20


@pytest.mark.exact
@each_wait
def test_a_missing_wait_is_reported(run_dry, wait):
    done = run_dry(WAITS[wait])
    assert done.returncode == 1
    assert "nothing orders" in done.stdout
    assert "host's start_sequence" in done.stdout


@pytest.mark.exact
@pytest.mark.parametrize("where", WRONG_SEATS)
def test_a_wrong_seat_is_reported(run_dry, where):
    *change, reported = WRONG_SEATS[where]
    done = run_dry(change)
    assert done.returncode == 1
    assert reported in done.stdout


@pytest.mark.exact
@pytest.mark.sanitize
def test_admissions_race_with_nothing(run_tsan):
    done = run_tsan(None, 2000)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.exact
@pytest.mark.sanitize
@each_wait
def test_a_missing_wait_is_a_race(run_tsan, wait):
    done = run_tsan(WAITS[wait], 20_000)  # ends at the first report
    assert done.returncode != 0, done.stdout
    assert "ThreadSanitizer: data race" in done.stderr or "FAILED" in done.stdout
