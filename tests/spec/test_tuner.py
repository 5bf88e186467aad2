"""Contract under test: `auto` leaves a policy for good once it said that it will, however often it
is asked before the change, as by a caller whose slices are shorter than a round (tuner_main.cc)."""


def test_a_change_of_policy_waits_for_the_lanes_and_is_not_forgotten(programs):
    sources = [f"spec/{name}.cc" for name in ("tuner", "replay", "trunk_index")]
    program = programs.build("tuner_main", [*sources, "core/memory.cc"], programs.plain)
    done = programs.run(program)
    assert done.returncode == 0, done.stdout + done.stderr
