"""Contract under test: ids that no token has are masked in every row, so that no method samples
them. Nothing else changes."""

import random
import re

import pytest

from sbrt import InvalidInputError, _core, _probe

VOCAB = 48
METHODS = {
    "none": {"gamma": 0},
    "draft_model": {"gamma": 4, "branches": 1, "serial": 1},
    "pearl": {"gamma": 4, "branches": 1},
    "specbranch": {"gamma": 4, "branches": 6, "adaptive": 1, "epsilon": 0.1},
}
SAMPLINGS = (
    {"temperature": 0.0},
    {"temperature": 0.8, "seed": 3},
    {"temperature": 1.5, "seed": 4, "top_p": 0.9, "top_k": 20, "min_p": 0.02},
)
SHAPED = (
    {}, {"repetition_penalty": 1.3, "presence_penalty": 0.4}, {"bad_words": [[3, 4], [5]]},
    {"logit_bias": [(i, 50.0) for i in range(VOCAB)]}, {"min_tokens": 30},
)  # fmt: skip


def tokens(method, sampling, shaping, holes=(), seed=1):
    """Return (tokens, number of discarded branch tokens) of one sequence. With an odd seed the
    draft has fewer tokens than the target."""
    sizes = VOCAB + 3, VOCAB // 2 if seed % 2 else VOCAB + 3
    toys = [
        _core.Toy(vocab=vocab, seed=seed, noise16=noise)
        for vocab, noise in zip(sizes, (0, 8), strict=True)
    ]
    core = _core.EngineCore(*toys, max_model_len=128, backend="sim", vocab=VOCAB, holes=list(holes))
    sampling, policy = _core.Sampling(**sampling), _probe.policy(**METHODS[method])
    core.begin([1, 2], sampling, policy, 80, [7, 11], _core.Shaping(**shaping))
    found = core.run()
    assert core.seat(0).error is None
    return found, core.seat(0).stats.discarded_branch_tokens


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda sampling: f"T={sampling['temperature']}")
@pytest.mark.parametrize("method", METHODS)
def test_holes_are_what_is_not_allowed(method, sampling):
    """Holes are ids that no token has. An engine with holes must give the same tokens as an engine
    without them whose request allows all other ids. Fuzz tests
    compare such requests with the reference."""
    rng = random.Random(0)
    changed = 0
    for seed in range(6):
        holes = sorted(rng.sample(range(VOCAB), rng.choice((1, 5, 30))))
        allowed = [i for i in range(VOCAB) if i not in holes]
        for shaping in SHAPED:
            given = tokens(method, sampling, shaping, holes, seed)
            assert given == tokens(
                method, sampling, shaping | {"allowed_token_ids": allowed}, (), seed
            )
            assert given[0] == tokens("none", sampling, shaping, holes, seed)[0]
            assert not set(given[0]) & set(holes)
            changed += given[0] != tokens(method, sampling, shaping, (), seed)[0]
    assert changed > 5


@pytest.mark.parametrize(
    ("holes", "words"),
    [([VOCAB], "from 0 to 47 but got 48"), ([-1], "but got -1"), (range(VOCAB), "holes only")],
    ids=str,
)
def test_holes_that_cannot_be_are_refused(holes, words):
    with pytest.raises(InvalidInputError, match=re.escape(words)):
        tokens("none", SAMPLINGS[0], {}, holes)
