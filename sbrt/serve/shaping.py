"""Converts the sampling parameters that change logits into the form that the C++ core reads."""

from __future__ import annotations

from .. import check
from .._core import Shaping
from ..errors import InvalidInputError
from ..model.tokenizer import Tokenizer
from ..sampling import SamplingParams


def shaping_of(params: SamplingParams, tokenizer: Tokenizer | None, vocab: int) -> Shaping:
    """Return the shaping of a request, which holds its masks, bias and penalties.

    Raises InvalidInputError on ids outside the vocabulary, and on bad_words without a tokenizer.
    """
    for name in ("logit_bias", "allowed_token_ids"):
        for token in getattr(params, name) or ():
            check.integer(f"{name}, token id", token, 0, vocab - 1)
    words = banned(params.bad_words or (), tokenizer, vocab)
    return Shaping(
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        min_tokens=params.min_tokens,
        logit_bias=list((params.logit_bias or {}).items()),
        allowed_token_ids=params.allowed_token_ids,
        bad_words=words,
    )


def banned(words: tuple[str, ...], tokenizer: Tokenizer | None, vocab: int) -> list[list[int]]:
    """Return the token sequences to ban. Each word gives two sequences: the word at the beginning
    of a text, and the word after a space."""
    if not words:
        return []
    if tokenizer is None:
        raise InvalidInputError("bad_words: expected none with skip_tokenizer_init, got words")
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        for text in (word.lstrip(), " " + word.lstrip()):
            ids = tokenizer.word_ids(text)
            if not ids:
                raise InvalidInputError(
                    f"bad_words: expected words of at least one token, got {check.show(word)}"
                )
            for token in ids:
                check.integer(f"bad_words, token of {check.show(word)}", token, 0, vocab - 1)
            found[tuple(ids)] = None
    return [list(ids) for ids in found]
