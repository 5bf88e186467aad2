"""Contract under test: several threads pack a matrix. An exception in a thread reaches the caller.
If no thread can be started, the caller packs all rows."""

import pytest

PARTS = ("core", "ops/format.cc", "ops/packed.cc", "ops/quantise.cc")
HOOKS = [
    ("core/memory.cc", "  allocations.fetch_add(1", "before_allocation", "size_t bytes"),
    ("ops/packed.cc", "others.emplace_back(work, part)", "before_thread", ""),
]


@pytest.fixture(scope="module")
def packed(programs):
    """Return packed(what), which runs the program with argument `what` and returns its output."""
    replaced = {}
    for file, place, hook, takes in HOOKS:
        before, found, after = programs.text(file).partition(place)
        assert found
        given = takes.split()[-1] if takes else ""
        replaced[file] = (
            f"#include <cstddef>\nvoid {hook}({takes});\n{before}{hook}({given}), {place}{after}"
        )
    program = programs.build("packed_main", PARTS, replaced=replaced)

    def run(what=""):
        done = programs.run(program, what)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_all_rows_are_packed(packed):
    assert packed() == "0 wrong"


def test_an_exception_in_a_thread_reaches_the_caller(packed):
    assert packed("rows") == "bad_alloc"


def test_without_threads_the_caller_packs_all_rows(packed):
    assert packed("threads") == "0 wrong"
