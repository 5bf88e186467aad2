"""Drafts of the tiny target that know some of its tokens, or have its embedding."""

from pathlib import Path

import numpy as np

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IDS = (*range(1, 60), *range(61, 160, 2), 200, 201, 255, 290, 298, 309)  # the last is no token


def d2t(ids=IDS):
    """The tensor as EAGLE-3 files have it."""
    return np.array(ids, np.int64) - np.arange(len(ids))


def t2d(ids=IDS, vocab=320):
    known = np.zeros(vocab, bool)
    known[list(ids)] = True
    return known


def head_weights(weights, ids=IDS, *, embedding=True):
    """Weights of a tied draft with a head of `ids`; embedding: keep its embedding."""
    found = weights | {HEAD: weights[EMBED][list(ids)], "d2t": d2t(ids)}
    if not embedding:
        del found[EMBED]
    return found


def write_trimmed(make, folder, weights, ids=IDS, *, tokenizer=False, **changes) -> Path:
    """A draft's folder, from what `head_weights` gives."""
    fields = {"tie_word_embeddings": False, "draft_vocab_size": len(ids)} | changes
    make.checkpoint(folder, weights=weights, **fields)
    if not tokenizer:
        (folder / "tokenizer.json").unlink()
    return folder
