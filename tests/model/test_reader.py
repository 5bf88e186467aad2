"""Contract under test: `LogitReader` gives the same logits as a lane. The size of its pieces does
not matter."""

import numpy as np
import pytest

from sbrt import InvalidInputError
from sbrt._core import LogitReader

TOKENS = [i * 37 % 67 for i in range(150)]


@pytest.fixture(scope="module")
def whole(tools):
    """Return the logits of TOKENS from a lane, [150, vocab]."""
    lane = tools.Sequence(tools.random_decoder(), max_len=160)
    return np.concatenate([lane.chunk(TOKENS[at : at + 50]) for at in range(0, 150, 50)])


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_pieces_have_the_bits_of_a_lane(tools, whole, size, threads):
    reader = LogitReader(tools.random_decoder(), 150, threads)
    found = [reader.forward(at, TOKENS[at : at + size]) for at in range(0, 150, size)]
    assert (np.concatenate(found) == whole).all()


def test_a_prompt_needs_no_logits_and_another_text_begins_again(tools, whole):
    reader = LogitReader(tools.random_decoder(), 150, 1)
    for _ in range(2):
        assert reader.forward(0, TOKENS[60:100], logits=False) is None
        assert reader.forward(0, TOKENS[:64], logits=False) is None
        assert (reader.forward(64, TOKENS[64:100]) == whole[64:100]).all()


@pytest.mark.parametrize(
    ("head", "tokens", "word"),
    [
        (0, [], "tokens"),
        (0, TOKENS[:65], "tokens"),
        (100, TOKENS[:51], "head"),
        (-1, [1], "head"),
        (1, [1], "head"),  # the reader has not read position 0
        (0, [67], "token"),
        (0, [-1], "token"),
    ],
)
def test_what_cannot_be_read_is_refused(tools, head, tokens, word):
    reader = LogitReader(tools.random_decoder(), 150, 1)
    with pytest.raises(InvalidInputError, match=f"reader: {word}: expected") as caught:
        reader.forward(head, tokens)
    assert "\n" not in str(caught.value)
    assert reader.forward(0, [1]).shape == (1, 67)
