"""Packs answers with their labels into batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .labels import Answer, Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKENS = 2048  # maximum tokens of a batch, padding included


@dataclass(frozen=True)
class Batch:
    """A batch of answers with labels. tokens: [batch, time], padded with 0 on the right.

    rows: [N], flat indices of the positions whose next token belongs to an answer. ids: [N, k], the
    target's most likely tokens at these positions, as ids of the draft. An id is -1 for tokens that
    the draft's vocabulary lacks. chances: [N, k], the target's probabilities of these tokens.
    sources: the source of each of the N positions.
    """

    tokens: Tensor
    rows: Tensor
    ids: Tensor
    chances: Tensor
    sources: list[str]


class Examples:
    """The training examples. to_draft: [target's vocabulary], the draft's id of each id of the
    target; -1 if the draft lacks the token."""

    def __init__(
        self, answers: Sequence[Answer], labels: Sequence[Labels], to_draft: NDArray[np.int64]
    ) -> None:
        self._answers, self._labels, self._to_draft = answers, labels, to_draft
        self.lengths = np.array([len(a.prompt) + len(a.ids) - 1 for a in answers])

    def epoch(self, seed: int) -> list[list[int]]:
        """Divide the answers into batches of indices, in an order drawn from `seed`."""
        chance = np.random.default_rng(seed)
        order = np.argsort(self.lengths + chance.uniform(0, 32, len(self.lengths)))
        batches: list[list[int]] = [[]]
        for i in order.tolist():
            widest = max(int(self.lengths[i]), *self.lengths[batches[-1]].tolist(), 0)
            if batches[-1] and widest * (len(batches[-1]) + 1) > TOKENS:
                batches.append([])
            batches[-1].append(i)
        return [batches[i] for i in chance.permutation(len(batches))]

    def batch(self, picked: Sequence[int], device: torch.device) -> Batch:
        """Return the answers with the indices `picked` as a Batch."""
        width = int(self.lengths[list(picked)].max())
        tokens = np.zeros((len(picked), width), np.int64)
        rows, ids, logs, sources = [], [], [], []
        for at, i in enumerate(picked):
            answer, labels = self._answers[i], self._labels[i]
            tokens[at, : self.lengths[i]] = answer.prompt + answer.ids[:-1]
            rows.append(at * width + len(answer.prompt) - 1 + np.arange(len(answer.ids)))
            ids.append(labels.ids)
            logs.append(labels.logs)
            sources += [answer.source] * len(answer.ids)
        theirs = np.concatenate(ids)
        ours = np.where(theirs < 0, -1, self._to_draft[theirs])
        chances = np.where(ours < 0, 0, np.exp(np.concatenate(logs).astype(np.float32)))

        def moved(values: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(values).to(device)

        return Batch(
            moved(tokens), moved(np.concatenate(rows)), moved(ours), moved(chances), sources
        )

    def batches(self, seed: int, device: torch.device) -> Iterator[Batch]:
        """Yield all batches of an epoch."""
        for picked in self.epoch(seed):
            yield self.batch(picked, device)


def vocabulary(
    labels: Sequence[Labels], size: int, vocab: int, needed: Sequence[int]
) -> NDArray[np.int64]:
    """Return the ids of the draft's vocabulary, ascending. They are the `size` ids with the largest
    sums of the target's probabilities over all labels.

    needed: ids that are always included. If two sums are equal, the lower id is taken.
    """
    counts = np.zeros(vocab)
    for one in labels:
        used = one.ids >= 0
        np.add.at(counts, one.ids[used], np.exp(one.logs[used].astype(np.float32)))
    counts[list(needed)] = np.inf
    order = np.lexsort((np.arange(vocab), -counts))
    return np.sort(order[: min(size, vocab)])
