"""Contract under test: the ops of a round leave the same bytes in the state if one thread runs them
or a team of 32. The team is like a warp of a device: between two barriers its members run in random
order (team_main.cc). The test finds a missing barrier."""

import pytest

# Each mutant is a header, a text in this header, and the text that replaces it.
MUTANTS = {
    "reach before it is there": (
        "round/plan_op.h",
        "chain.parent[i]] + s.reach[i];\n  }\n  team.meet();\n",
        "chain.parent[i]] + s.reach[i];\n  }\n",
    ),
    "rows before their number": (
        "round/grow_op.h",
        "    ++c.step;\n  }\n  team.meet();\n",
        "    ++c.step;\n  }\n",
    ),
    "prefill that moves on too early": (
        "round/rows_op.h",
        "  team.meet();\n  for (int i = team.rank; i < n;",
        "  for (int i = team.rank; i < n;",
    ),
    "features scaled too early": (
        "round/hrad_op.h",
        "  team.meet();\n  for (int b = 0; b < kFeatureBlocks; ++b)\n    for",
        "  for (int b = 0; b < kFeatureBlocks; ++b)\n    for",
    ),
    "a sum before its parts": (
        "round/hrad_op.h",
        "    team.meet();\n    for (int i = team.rank; i < least(apart",
        "    for (int i = team.rank; i < least(apart",
    ),
    "a sum before its last addition": (
        "round/hrad_op.h",
        "      sums[i] += sums[i + apart * width];\n  }\n  team.meet();\n",
        "      sums[i] += sums[i + apart * width];\n  }\n",
    ),
    "a cut before its scores": (
        "round/hrad_op.h",
        "  team.meet();\n  if (team.rank != 0) return;\n  int best",
        "  if (team.rank != 0) return;\n  int best",
    ),
    "a tree that is searched before it has grown": (
        "round/grow_op.h",
        "      ++s.grown[best];\n    }\n    team.meet();\n",
        "      ++s.grown[best];\n    }\n",
    ),
    "a tree that grows before it was searched": (
        "round/grow_op.h",
        "    if (team.rank == 0) s.next[best] = next;\n    team.meet();\n",
        "    if (team.rank == 0) s.next[best] = next;\n",
    ),
    "a branch for an outcome that is not there yet": (
        "round/select_op.h",
        "    commit_outcome(c);\n  }\n  team.meet();\n",
        "    commit_outcome(c);\n  }\n",
    ),
    "ties by chance": (
        "round/crew.h",
        "if (best == 0) break;\n    head += mine == best;",
        "if (best == 0) break;\n    head += mine >> 32 == best >> 32;",
    ),
}


@pytest.fixture(scope="module")
def run(programs, build_with):
    """Return run(sequences, mutant=None), which runs team_main. A mutant is built with a changed
    header."""

    def run(sequences, mutant=None):
        program = build_with("team_main", mutant and MUTANTS[mutant])
        return programs.run(program, sequences)

    return run


def test_a_team_leaves_the_same_block(run):
    done = run(60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 10_000


@pytest.mark.exact
def test_a_team_leaves_the_same_block_for_long(run):
    assert run(3000).returncode == 0


@pytest.mark.exact
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_found(run, mutant):
    done = run(200, mutant)
    assert done.returncode != 0, f"{mutant}: nothing was found"
