"""Contract under test: `auto` leaves a policy for good once it said that it will, however often it
is asked before the change, as by a caller whose slices are shorter than a round; what a trial loses
is what its own rounds lost, the last one too, and no round before it. A token that the draft does
not list among its candidates gets a rank after all of them (tuner_main.cc)."""


def test_policies_trials_and_ranks(programs):
    sources = [f"decode/auto/{name}.cc" for name in ("tuner", "backtest", "trunk_index")]
    program = programs.build("tuner_main", [*sources, "core/memory.cc"], programs.plain)
    done = programs.run(program)
    assert done.returncode == 0, done.stdout + done.stderr
