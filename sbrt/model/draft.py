"""Reads drafts that have a trimmed LM head, or that share the target's embedding.

A trimmed head has rows for only `draft_vocab_size` ids of the target's vocabulary. The tensor d2t
lists these ids as in the files of EAGLE-3: row i of lm_head.weight belongs to the target's id i +
d2t[i]. The ids ascend. If there is a tensor t2d, it must be true for exactly these ids.

A draft without model.embed_tokens.weight uses the target's embedding, in the same memory. If
tie_word_embeddings is true as well, the draft also uses the target's head.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidInputError
from .checkpoint import EMBED, HEAD, Checkpoint, check_tensors, read_checkpoint
from .stored import Stored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

D2T, T2D = "d2t", "t2d"


def open_draft(path: Path, target: Checkpoint) -> Checkpoint:
    """Check a draft's folder or GGUF file like open_checkpoint. Also check that the draft fits its
    target.

    Reads no weight except the ids of the head. Raises InvalidInputError, naming the file and the
    fault.
    """
    draft = read_checkpoint(path)
    weights = {name: w for name, w in draft.weights.items() if name not in (D2T, T2D)}
    shares = EMBED not in weights
    found = replace(draft, weights=weights, head_ids=_head_ids(draft), shares_embedding=shares)
    if shares:
        _check_shared(found, target)
    check_tensors(found)
    return found


def _check_shared(draft: Checkpoint, target: Checkpoint) -> None:
    """Raise InvalidInputError unless the target's embedding fits the draft."""
    ours, theirs = draft.config, target.config
    for field, mine, wanted in (
        ("hidden_size", ours.hidden, theirs.hidden),
        ("vocab_size", ours.vocab, theirs.vocab),
    ):
        if mine != wanted:
            raise InvalidInputError(
                f"{draft.folder}, {field}: expected {wanted}, as it has no {EMBED} and takes "
                f"the target's, got {mine}"
            )
    if ours.tied and HEAD in draft.weights:
        raise InvalidInputError(
            f"{draft.weights[HEAD].where}: expected none with tie_word_embeddings and no {EMBED}, "
            "as the head is the target's, got one"
        )


def _head_ids(draft: Checkpoint) -> tuple[int, ...]:
    """Return the target's ids for which the draft's LM head has rows, ascending; () means all."""
    size, config = draft.config.draft_vocab, draft.folder / "config.json"
    d2t, t2d = draft.weights.get(D2T), draft.weights.get(T2D)
    if d2t is None:
        if size or t2d is not None:
            what = f"{config}, draft_vocab_size" if t2d is None else t2d.where
            raise InvalidInputError(f"{what}: expected the tensor {D2T} with it, found none")
        return ()
    if not size:
        raise InvalidInputError(f"{d2t.where}: expected draft_vocab_size in {config}, found none")
    if draft.config.tied:
        raise InvalidInputError(
            f"{config}, tie_word_embeddings: expected false with draft_vocab_size, got true"
        )
    ids = _ids(d2t, size, draft.config.vocab)
    if t2d is not None:
        _check_inverse(t2d, ids, draft.config.vocab)
    return tuple(ids.tolist())


def _ids(d2t: Stored, size: int, vocab: int) -> NDArray[np.int64]:
    import numpy as np  # imported here, so that `import sbrt` stays fast

    steps = _values(d2t, "I64", size).view("<i8").astype(np.int64)
    if (wrong := np.flatnonzero((steps < 0) | (steps >= vocab))).size:
        i = int(wrong[0])
        raise InvalidInputError(
            f"{d2t.where}: expected values from 0 to {vocab - 1}, got {steps[i]} in row {i}"
        )
    ids = np.arange(size, dtype=np.int64) + steps
    if (wrong := np.flatnonzero(np.diff(ids) <= 0)).size:
        i = int(wrong[0])
        raise InvalidInputError(
            f"{d2t.where}: expected ids that ascend, got {ids[i + 1]} after {ids[i]} in row {i + 1}"
        )
    if ids[-1] >= vocab:
        raise InvalidInputError(
            f"{d2t.where}: expected ids below vocab_size {vocab}, got {ids[-1]} in row {size - 1}"
        )
    return ids


def _check_inverse(t2d: Stored, ids: NDArray[np.int64], vocab: int) -> None:
    import numpy as np  # imported here, so that `import sbrt` stays fast

    known = np.zeros(vocab, bool)
    known[ids] = True
    wrong = np.flatnonzero((_values(t2d, "BOOL", vocab) != 0) != known)
    if wrong.size:
        i = int(wrong[0])
        raise InvalidInputError(
            f"{t2d.where}: expected {bool(known[i])} of id {i}, as {D2T} says, got {not known[i]}"
        )


def _values(weight: Stored, dtype: str, size: int) -> NDArray[np.uint8]:
    """Return the bytes of a vector. Raises InvalidInputError on a wrong dtype or shape."""
    if weight.dtype != dtype or weight.shape != (size,):
        raise InvalidInputError(
            f"{weight.where}: expected {dtype} of shape [{size}], got {weight.dtype} of "
            f"{list(weight.shape)}"
        )
    return weight.numbers()[1]
