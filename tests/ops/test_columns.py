"""Contract under test: a row may have logits for some tokens only. Then `choose` gives the same
tokens as for a row of all tokens in which the missing tokens are masked. Noise, filters and ties
are the same."""

import numpy as np
import pytest

from sbrt import InvalidInputError, _core, _probe

POSITIONS = (0, 77, 2**32 + 1)
FILTERS = ({}, {"top_k": 7}, {"top_p": 0.9}, {"min_p": 0.02}, {"top_k": 40, "top_p": 0.8})


def choose(logits, sampling, position, want, ids=()):
    return _probe.choose(logits, _core.Sampling(**sampling), position, want, ids)


def masked(logits, ids, vocab):
    """Return the row of all `vocab` tokens. Tokens that are not in `ids` are masked."""
    row = np.full(vocab, -np.inf, np.float32)
    row[ids] = logits
    return row


def heads(rng):
    """Yield LM heads as (ids of the rows, size of the vocabulary). The ids are scattered or in
    runs; there are few, all, or more than a vector holds."""
    for vocab, size in ((60, 1), (60, 17), (300, 64), (300, 65), (5000, 1000), (5000, 5000)):
        yield np.sort(rng.choice(vocab, size, replace=False)), vocab
    yield np.r_[0:500, 900:1000, 4990:5000], 5000


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_a_row_of_some_tokens_is_a_row_whose_others_are_masked(temperature):
    rng = np.random.default_rng(1)
    for ids, vocab in heads(rng):
        for scale in (0.5, 4.0):
            logits = rng.normal(scale=scale, size=len(ids)).astype(np.float32)
            whole = masked(logits, ids, vocab)
            for filters in FILTERS:
                sampling = {"temperature": temperature, "seed": int(rng.integers(2**63)), **filters}
                for position in POSITIONS:
                    found = choose(logits, sampling, position, 16, ids)
                    assert found == choose(whole, sampling, position, 16), (
                        len(ids),
                        vocab,
                        sampling,
                    )


def test_ties_go_to_the_lowest_id():
    ids = [2, 3, 9, 11, 40]
    logits = np.array([1, 5, 5, 0, 5], np.float32)
    assert choose(logits, {"temperature": 0.0}, 0, 5, ids) == [3, 9, 40, 2, 11]


@pytest.mark.parametrize(
    ("ids", "word"), [([3, 3], "id of a column"), ([3, 1], "id of a column"), ([-1, 2], "id of")]
)
def test_ids_ascend(ids, word):
    with pytest.raises(InvalidInputError, match=word):
        choose(np.zeros(2, np.float32), {}, 0, 1, ids)


def test_a_row_has_as_many_logits_as_ids():
    with pytest.raises(InvalidInputError, match="logits of a row"):
        choose(np.zeros(3, np.float32), {}, 0, 1, [1, 2])


def test_a_target_speaks_all_its_tokens():
    trimmed = _core.Toy(vocab=32, head_ids=[1, 2, 3])
    with pytest.raises(InvalidInputError, match=r"target: expected a head of all tokens.* 3"):
        _core.EngineCore(trimmed, None, max_model_len=64, backend="sim")


def test_a_draft_speaks_a_token_of_the_engine():
    toys = _core.Toy(vocab=32), _core.Toy(vocab=32, head_ids=[20, 30])
    assert _core.EngineCore(*toys, max_model_len=64, backend="sim", vocab=21) is not None
    with pytest.raises(InvalidInputError, match="draft: expected a head with a token below 20"):
        _core.EngineCore(*toys, max_model_len=64, backend="sim", vocab=20)
