"""Draft checkpoints with a trimmed LM head, or with the embedding of their target. A trimmed head
has rows for only some of the target's tokens."""

import json
from pathlib import Path

import numpy as np

from tests.common.tiny import write_tokenizer, write_weights

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IDS = (*range(1, 60), *range(61, 160, 2), 200, 201, 255, 290, 298, 309)  # no token has the id 309
COUNTS = ("num_draft_tokens", "num_accepted_draft_tokens")


def d2t(ids=IDS):
    """Return the tensor d2t as EAGLE-3 stores it: (target's id - row) for each row of the head."""
    return np.array(ids, np.int64) - np.arange(len(ids))


def t2d(ids=IDS, vocab=320):
    known = np.zeros(vocab, bool)
    known[list(ids)] = True
    return known


def head_weights(weights, ids=IDS, *, embedding=True):
    """Return a draft's weights with an LM head that has rows for `ids` only. If `ids` is None,
    leave out the LM head. If `embedding` is False, leave out the embedding, so that the draft uses
    the target's."""
    head = weights.get(HEAD, weights[EMBED])
    found = {n: w for n, w in weights.items() if n != HEAD and (embedding or n != EMBED)}
    return found if ids is None else found | {HEAD: head[list(ids)].copy(), "d2t": d2t(ids)}


def head_fields(ids=IDS):
    """Return the fields of config.json that describe an LM head with rows for `ids` only."""
    if ids is None:
        return {"tie_word_embeddings": True}
    return {"tie_word_embeddings": False, "draft_vocab_size": len(ids)}


def write_draft(folder, config, weights, *, tokenizer=False) -> Path:
    """Write a draft's folder from its config and weights; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(folder / "model.safetensors", weights)
    if tokenizer:
        write_tokenizer(folder)
    return folder


def answers(engine, prompts, dists, method="none"):
    """Return three values: the answers to every prompt with each of the sampling params `dists`,
    the number of drafted tokens, and the number of accepted tokens."""
    outputs = [o for dist in dists for o in engine.generate(prompts, dist, method=method)]
    completions = [o.outputs[0] for o in outputs]
    found = [(c.token_ids, c.text, c.finish_reason, c.stop_reason) for c in completions]
    metrics = [c.spec_decode_metrics for c in completions]
    return found, *(sum(m[name] for m in metrics) for name in COUNTS)
