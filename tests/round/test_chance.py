"""Contract under test: the ops of rejection leave the same bits in the state if one thread runs
them or a team of 32. The team is like a warp of a device (chance_main.cc). The test finds a missing
barrier, and a sum in another order."""

import pytest

PART = "round/accept_op.h"
# Each mutant is a text of the header, and the text that replaces it.
MUTANTS = {
    "groups before their lanes": (
        "s.lane[l] = join(s.lane[l], value(from + l));\n  team.meet();\n",
        "s.lane[l] = join(s.lane[l], value(from + l));\n",
    ),
    "a sum before its groups": (
        "    s.group[g] = all;\n  }\n  team.meet();\n",
        "    s.group[g] = all;\n  }\n",
    ),
    "a rejected token that others still read": (
        "surplus(place.p[i], place.q[i]) / left;\n  team.meet();\n",
        "surplus(place.p[i], place.q[i]) / left;\n",
    ),
    "a token that is read before it is drawn": (
        "    s.token = from + turn.at * kSumLanes;\n  }\n  team.meet();\n",
        "    s.token = from + turn.at * kSumLanes;\n  }\n",
    ),
    "candidates before they are listed": (
        "    s.known = known_child(c, node);\n  }\n  team.meet();\n",
        "    s.known = known_child(c, node);\n  }\n",
    ),
    "candidates of the next node before these were read": (
        "    team.meet();  // all have read the candidates\n",
        "",
    ),
    "a sum by the members": (
        "for (int l = team.rank; l < least(kSumLanes, n - from); l += team.size)\n"
        "      s.lane[l] = join(s.lane[l], value(from + l));",
        "for (int l = team.rank; l < least(kSumLanes, n - from); l += team.size)\n"
        "      s.lane[team.rank] = join(s.lane[team.rank], value(from + l));",
    ),
}


@pytest.fixture(scope="module")
def run(programs, build_with):
    """Return run(walks, mutant=None), which runs chance_main. A mutant is built with a changed
    header."""

    def run(walks, mutant=None):
        program = build_with("chance_main", mutant and (PART, *MUTANTS[mutant]))
        return programs.run(program, walks)

    return run


def test_a_team_leaves_the_same_bits(run):
    done = run(300)
    assert done.returncode == 0, done.stdout + done.stderr
    accepted, empty = map(int, done.stdout.split())
    assert accepted > 100
    assert empty > 0


@pytest.mark.exact
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_found(run, mutant):
    assert run(2000, mutant).returncode != 0, f"{mutant}: nothing was found"
