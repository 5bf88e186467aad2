"""Makes labels: the target's most likely tokens at every position of its answers. Labels are kept
on disk.

The engine's own arithmetic computes the labels. So a label is the distribution against which
drafted tokens are verified. Labels are made once. A run that was stopped can be resumed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from ... import check
from ..._core import LogitReader
from ...errors import InvalidInputError
from ...files import write_file
from ...serve.pair import Pair

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEPT = 32  # number of most likely tokens that are kept for a position
NEVER = 30.0  # nats; logits of unused ids are this far below all other logits
# In nats. A token is kept only if its log-prob is at most this far below the best log-prob.
DEEPEST = 12.0
ROWS = 64  # maximum rows of one forward
BLOCK = 64  # number of answers per file of labels
LONGEST_PROMPT = 400  # tokens; answers to longer prompts are left out

Tell = Callable[[int, int], None]  # (answers done, total answers)


@dataclass(frozen=True)
class Answer:
    """A prompt and the target's answer, as ids. source: the kind of prompt."""

    source: str
    index: int
    prompt: list[int]
    ids: list[int]


@dataclass(frozen=True)
class Labels:
    """Labels of an answer of n tokens.

    ids: [n, KEPT], the target's most likely tokens, best first; -1 in unused entries. logs: [n,
    KEPT], their log-probabilities. Row j is the distribution from which token j of the answer was
    sampled.
    """

    ids: NDArray[np.int32]
    logs: NDArray[np.float16]


def read_answers(path: Path) -> list[Answer]:
    """Read the answers of a JSON lines file, in order. An incomplete last line is left out.

    Empty answers, and answers to prompts of more than LONGEST_PROMPT tokens, are left out, too.
    Raises InvalidInputError, naming the line.
    """
    found = []
    lines = check.read_bytes(path, 2**32).split(b"\n")
    for number, line in enumerate(lines[:-1], 1):  # only a complete line ends with a newline
        try:
            raw = json.loads(line)
            answer = Answer(raw["source"], raw["index"], raw["prompt_ids"], raw["ids"])
            is_right = bool(answer.prompt) and _are_ids(answer.prompt) and _are_ids(answer.ids)
        except (ValueError, KeyError, TypeError):
            is_right = False
        if not is_right:
            raise InvalidInputError(
                f"{path}, line {number}: expected source, index, prompt_ids and ids"
            )
        if answer.ids and len(answer.prompt) <= LONGEST_PROMPT:
            found.append(answer)
    return found


def _are_ids(given: Any) -> bool:
    return isinstance(given, list) and all(type(i) is int and i >= 0 for i in given)


class Reader:
    """Computes the target's logits at every token of an answer, with the engine's forward.

    Ids without a token get a logit below all other logits.
    """

    def __init__(self, pair: Pair, longest: int, threads: int) -> None:
        self._lane = LogitReader(pair.target, longest, threads)
        self._vocab, self._holes = pair.vocab, list(pair.holes)

    def read(self, answer: Answer) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (index of the first row, logits [rows, vocab]) for the answer's tokens, at most
        ROWS rows at a time."""
        tokens = answer.prompt + answer.ids[:-1]
        first = len(answer.prompt) - 1
        for at in range(0, first, ROWS):
            self._lane.forward(at, tokens[at : min(at + ROWS, first)], False)
        for at in range(first, len(tokens), ROWS):
            found = self._lane.forward(at, tokens[at : at + ROWS])
            assert found is not None
            found = found[:, : self._vocab]
            found[:, self._holes] = found.min() - NEVER
            yield at - first, found


def label(reader: Reader, answer: Answer) -> Labels:
    """Return the labels of one answer."""
    ids = np.full((len(answer.ids), KEPT), -1, np.int32)
    logs = np.full((len(answer.ids), KEPT), -np.inf, np.float16)
    for first, logits in reader.read(answer):
        for j, row in enumerate(logits, first):
            best = row.max()
            likely = np.flatnonzero(row > best - DEEPEST)
            if len(likely) > KEPT:
                likely = np.sort(likely[np.argpartition(row[likely], -KEPT)[-KEPT:]])
            likely = likely[np.argsort(-row[likely], kind="stable")]
            total = best + np.log(np.exp(row - best).sum())
            ids[j, : len(likely)] = likely
            logs[j, : len(likely)] = row[likely] - total
    return Labels(ids, logs)


def labelled(
    folder: Path, answers: Sequence[Answer], reader: Callable[[], Reader], tell: Tell
) -> list[Labels]:
    """Return the labels of all answers. Labels that are in `folder` already are read from there.

    A block of answers is labelled again if its answers have changed. `reader` is called only if
    logits are needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Labels] = []
    made: Reader | None = None
    for first in range(0, len(answers), BLOCK):
        block, path = answers[first : first + BLOCK], folder / f"{first // BLOCK:05d}.npz"
        kept = _read_block(path, block)
        if kept is None:
            made = made or reader()
            kept = [label(made, answer) for answer in block]
            _write_block(path, block, kept)
        found += kept
        tell(min(first + BLOCK, len(answers)), len(answers))
    return found


def _read_block(path: Path, block: Sequence[Answer]) -> list[Labels] | None:
    """Return the labels of a block of answers. Returns None if the file is missing, damaged, or
    belongs to other answers."""
    lengths = [len(answer.ids) for answer in block]
    try:
        with np.load(path, allow_pickle=False) as file:
            if file["answers"].tobytes() != _digest(block):
                return None
            ids, logs = file["ids"], file["logs"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    ends = np.cumsum(lengths)
    return [Labels(ids[e - n : e], logs[e - n : e]) for n, e in zip(lengths, ends, strict=True)]


def _digest(block: Sequence[Answer]) -> bytes:
    return sha256(json.dumps([(one.prompt, one.ids) for one in block]).encode()).digest()


def _write_block(path: Path, block: Sequence[Answer], labels: Sequence[Labels]) -> None:
    data = io.BytesIO()
    np.savez(
        data,
        answers=np.frombuffer(_digest(block), np.uint8),
        ids=np.concatenate([one.ids for one in labels]),
        logs=np.concatenate([one.logs for one in labels]),
    )
    write_file(path, data.getvalue())
