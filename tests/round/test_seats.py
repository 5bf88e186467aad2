"""Contract under test: each seat has its own slots. If a seat takes part in a round, its rows are
contiguous in the batch. The results of these rows change the seat's sequence as they would without
other seats (seats_main.cc). A seat that does not take part has no row. If a header breaks one of
these rules, the program reports it."""

import pytest

MUTANTS = {
    "all seats share a ring": (
        "ring/shape.h",
        "return seat * seat_slots() + position % capacity;",
        "return 0 * seat + position % capacity;",
    ),
    "tails begin in the ring of the next seat": (
        "ring/shape.h",
        "return seat * seat_slots() + capacity + int64_t{branch} * tail_slots + j;",
        "return seat * capacity + capacity + int64_t{branch} * tail_slots + j;",
    ),
    "a seat that is not called has rows": (
        "round/rows_op.h",
        "    if (!members.has(seat)) continue;\n",
        "",
    ),
    "the roll of the round before": (
        "state/roll.h",
        "return *ended + 1;",
        "return *ended;",
    ),
    "dists of the first rows of the batch": (
        "round/grow_op.h",
        "args.dists + args.batch->first[args.seat]",
        "args.dists",
    ),
}


@pytest.fixture(scope="module")
def run(programs, build_with):
    """Return run(seeds, mutant=None), which runs seats_main. A mutant is built with a changed
    header."""

    def run(seeds, mutant=None):
        return programs.run(build_with("seats_main", mutant and MUTANTS[mutant]), seeds)

    return run


def test_seats_are_apart(run):
    done = run(20)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.exact
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_found(run, mutant):
    done = run(20, mutant)
    assert done.returncode == 1, f"{mutant}: nothing was found"
    assert "FAILED" in done.stdout
