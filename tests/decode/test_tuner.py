"""Contract under test: the tuner of `auto` (tuner_main.cc) and its replay of rounds that join
look-ups with a burst (replay_main.cc).

- Once the tuner has decided to leave a policy, Tuner::stays() returns false until the policy
  changes, however often it is called.
- A trial is charged the loss of its own rounds, the last one included, and of no other round.
- A token that is not among the draft's candidates gets a rank after all of them.
- A round whose look-up fills the chain costs no burst, unless it shares the round.
- In company a burst is only as long as pays on average. A sequence alone keeps its policy's burst.
- Replayed rounds commit as many tokens as the ranks and the look-ups say, and have no more nodes
  than a chain may have. Look-ups add to a draft only where they give more.
"""

AUTO = ("backtest", "joined_replay", "trunk_index")


def run(programs, name, *files):
    sources = [f"decode/auto/{file}.cc" for file in (*files, *AUTO)]
    program = programs.build(name, [*sources, "core/memory.cc"], programs.plain)
    done = programs.run(program)
    assert done.returncode == 0, done.stdout + done.stderr


def test_policies_trials_and_ranks(programs):
    run(programs, "tuner_main", "tuner", "prices")


def test_replayed_rounds(programs):
    run(programs, "replay_main")
