"""Contract under test: the tuner of `auto` (tuner_main.cc).

- Once the tuner has decided to leave a policy, Tuner::stays() returns false until the policy
  changes, however often it is called.
- A trial is charged the loss of its own rounds, the last one included, and of no other round.
- A token that is not among the draft's candidates gets a rank after all of them.
"""


def test_policies_trials_and_ranks(programs):
    sources = [f"decode/auto/{name}.cc" for name in ("tuner", "backtest", "trunk_index")]
    program = programs.build("tuner_main", [*sources, "core/memory.cc"], programs.plain)
    done = programs.run(program)
    assert done.returncode == 0, done.stdout + done.stderr
