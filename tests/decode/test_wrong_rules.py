"""Contract under test: the right rules of `rejection` pass a chi-square test (tally.py). An engine
core with one wrong rule fails the test, though each wrong rule looks right."""

import numpy as np
import pytest

from sbrt import _probe

exact = pytest.mark.exact

SEQUENCES = 400_000
FLAGS = ("-O2",)  # no -Werror: a wrong rule may leave a variable unused
FAR = 5.0  # in standard deviations

PATH = {"gamma": 3, "serial": True}
TREE = {"gamma": 2, "serial": True, "width": 3, "nodes": 3}
ENDS = {"gamma": 2, "branches": 3}  # branches start at the chain's end
LOOKUP = {"gamma": 2, "branches": 4, "likely": True, "on_miss": 2, "burst": 3}

JOINED = {"gamma": 2, "serial": True, "width": 2, "nodes": 4, "lookup": True}

JOIN, SELECT = "round/join_op.h", "round/select_op.h"
ACCEPT, CHOOSE = "round/accept_op.h", "ops/choose.cc"
FOUND = "  c.chain.known = Mask::upto(n + 1).without(0);\n"
HUNG = "  chain.known = chain.known.with(node);\n"
MARKED = "    chain.known = chain.known.with(drafted);\n"
BEST = """  Candidate best = s.drawn[0];
  for (int i = 1; i < s.n; ++i)
    if (place.p[s.drawn[i].token] > place.p[best.token]) best = s.drawn[i];
  return best;
"""
SORT = """  const float* q = c.scores.chain + int64_t{node} * c.scores.vocab;
  for (int i = 1; i < n; ++i)
    for (int j = i; j > 0 && q[found[j].token] > q[found[j - 1].token]; --j) {
      const Candidate other = found[j];
      found[j] = found[j - 1];
      found[j - 1] = other;
    }
"""
COINS = "  const Noise coins = noise_after(c, node, kCoin);\n"
OWN_Q = "  for (int r = 0; r < dist.n; ++r) dist.lp[r] = raw.lp(a.row(i)[dist.token[r]]);\n"
RAW_Q = "  for (int t = 0; t < a.columns.n; ++t) scores[t] = logits[t] / c.sampling.temperature;\n"
# {wrong rule: (method, file in csrc, its text, the replacement)}
WRONG = {
    "ratio on a looked-up token": (LOOKUP, SELECT, FOUND, ""),
    "ratio on a looked-up node of a tree": (JOINED, JOIN, HUNG, ""),
    "a drawn token that was looked up too is tried in its turn": (JOINED, JOIN, MARKED, ""),
    "the branch the target likes best": (ENDS, ACCEPT, COINS, COINS + BEST),
    "sorted before verifying": (TREE, ACCEPT, "  return n;\n", SORT + "  return n;\n"),
    "q not renormalised": (
        ENDS,
        ACCEPT,
        "  normalise(place.q, place.vocab, s, team);\n  return left > 0;\n",
        "  return left > 0;\n",
    ),
    "pruned by the drawn tokens' own q": (
        TREE,
        CHOOSE,
        "  score_blindly(scores, a.columns.n, dist);\n",
        OWN_Q,
    ),
    "raw q of a truncated draw": (
        PATH,
        CHOOSE,
        "  keep_scores(logits, a.columns.n, c.sampling, scratch, scores);\n",
        RAW_Q,
    ),
    "resampled from p": (
        PATH,
        ACCEPT,
        "    place.p[i] = surplus(place.p[i], place.q[i]) / left;\n",
        "    break;\n",
    ),
    "one coin for all positions": (
        PATH,
        ACCEPT,
        "c.head + c.chain.level[node] + 1;\n",
        "c.head + 1;\n",
    ),
}


@pytest.fixture
def run(programs, tally, tmp_path_factory):
    """Return a function run(method, replaced). It compiles an engine core with the replaced files.
    It returns the distance of the core's tokens from the right distribution, in standard
    deviations."""

    def run(method, replaced):
        dist = (
            {"temperature": 6.0, "top_k": 2} if method is PATH else {"temperature": 2.5, "top_k": 0}
        )
        setting = tally.setting(method, noise=48, cells=3, **dist)
        p = _probe.policy(**method)
        knobs = [p.gamma, p.branches, p.ranking, p.width, p.nodes, p.epsilon]
        knobs += [p.on_miss, p.burst, p.burst_width, p.lookup]
        toys = [SEQUENCES, setting["cells"], setting["vocab"], setting["noise"], 0]
        extra = []
        for part in [part for part in replaced if part.endswith(".h")]:
            folder = tmp_path_factory.mktemp("wrong")
            (folder / part).parent.mkdir()
            (folder / part).write_text(replaced.pop(part))
            extra.append(f"-I{folder}")
            replaced["round/ops.cc"] = programs.text("round/ops.cc")  # only this file includes it
        program = programs.build("dist_main", programs.rounds, FLAGS, replaced, tuple(extra))
        done = programs.run(program, *toys, *dist.values(), *knobs)
        assert done.returncode == 0, done.stderr
        counts = np.zeros((setting["vocab"] + 1,) * setting["cells"])
        for line in done.stdout.splitlines():
            cell, n = map(int, line.split())
            counts[tuple(cell.to_bytes(setting["cells"], "big"))] = n
        assert counts.sum() == SEQUENCES
        return tally.distance(counts, tally.expected(setting))

    return run


@exact
@pytest.mark.parametrize("method", [PATH, TREE, ENDS, LOOKUP, JOINED], ids=str)
def test_the_right_rule_passes(run, method):
    assert abs(run(method, {})) < FAR


def test_each_text_is_in_the_code(programs):
    """The other tests are not in `make test`, so this one finds texts that have changed."""
    texts = [(part, right) for _, part, right, _ in WRONG.values()]
    assert [programs.text(part).count(right) for part, right in texts] == [1] * len(texts)


@exact
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_in_the_core_is_caught(run, programs, name, capfd):
    method, part, right, wrong = WRONG[name]
    text = programs.text(part)
    assert text.count(right) == 1
    far = run(method, {part: text.replace(right, wrong)})
    with capfd.disabled():
        print(f"\n{name}: {far:.0f} standard deviations")
    assert far > FAR
