"""Collects training samples for H-RAD. A sample is the features at the end of a round, with a
label. The label says how much of the tail that the round adopted was accepted in the next round.
Chains are not cut while samples are collected, so a label describes a whole burst."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import methods
from ...engine import Engine
from ...errors import EngineError, InvalidInputError
from ...files import write_file
from ...methods import Method
from ...model.hrad import CLASSES, Origin, check_finite, inputs, open_existing, read_origin
from ...model.safetensors_file import encode
from ...sampling import MAX_SEED, SamplingParams
from ...trace.spans import Round

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "sbrt-hrad-samples-2"
HELD_OUT = 5  # every fifth prompt is held out: it is not used for training

Progress = Callable[[int, int, str], None]  # (prompts done, total prompts, name of the next prompt)


@dataclass(frozen=True)
class Samples:
    """Training samples.

    features: [n, inputs] f16. labels: [n] u8. prompts: [n] i64, the index of each sample's prompt.
    digests: [prompts] i64, a digest of each prompt's text. data: sha256 of all samples.
    """

    origin: Origin
    features: NDArray[np.float16]
    labels: NDArray[np.uint8]
    prompts: NDArray[np.int64]
    digests: NDArray[np.int64]

    def held_out(self) -> NDArray[np.bool_]:
        """Return bool [n]: True if a sample's prompt is held out from training."""
        return is_held_out(self.prompts)

    def encode(self) -> bytes:
        """Return the bytes of the samples' file."""
        tensors = {
            name: getattr(self, name) for name in ("features", "labels", "prompts", "digests")
        }
        return encode(tensors, self.origin.metadata() | {"format": FORMAT})

    @property
    def data(self) -> str:
        """sha256 of the file, in hex."""
        return hashlib.sha256(self.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises OSError."""
        write_file(path, self.encode())


def is_held_out(prompt: Any) -> Any:
    """True if the prompt with this index is held out. An array of indices gives an array of
    bools."""
    return prompt % HELD_OUT == HELD_OUT - 1


def load_samples(path: Path) -> Samples:
    """Read and check a file of samples. Raises InvalidInputError, naming file and field."""
    file = open_existing(path)
    origin = read_origin(file, FORMAT)
    found = Samples(
        origin,
        features=file.array("features", "F16", (None, inputs(origin.hidden))),
        labels=file.array("labels", "U8", (None,)),
        prompts=file.array("prompts", "I64", (None,)),
        digests=file.array("digests", "I64", (None,)),
    )
    count = len(found.features)
    for name in ("labels", "prompts"):
        if len(getattr(found, name)) != count:
            got = len(getattr(found, name))
            raise InvalidInputError(f"{path}, tensor {name}: expected {count} numbers, got {got}")
    if count == 0:
        raise InvalidInputError(f"{path}: expected at least one sample, got none")
    _check_below(f"{path}, tensor labels", found.labels, len(CLASSES))
    _check_below(f"{path}, tensor prompts", found.prompts, len(found.digests))
    check_finite(f"{path}, tensor features", found.features)
    return found


def joined(parts: Sequence[Samples]) -> Samples:
    """Join samples of one pair of models and one gamma. Their temperatures may differ. Equal
    prompts become one prompt.

    The result's `origin` has the highest temperature of the parts. Raises InvalidInputError if the
    pairs differ.
    """
    import numpy as np

    first = parts[0]
    for part in parts[1:]:
        first.origin.check_same("samples", part.origin)
    if len(parts) == 1:
        return first
    digests, place = np.unique(
        np.concatenate([part.digests for part in parts]), return_inverse=True
    )
    starts = np.cumsum([0, *(len(part.digests) for part in parts)])
    return Samples(
        replace(first.origin, temperature=max(part.origin.temperature for part in parts)),
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate(
            [place[start + part.prompts] for start, part in zip(starts, parts, strict=False)]
        ).astype(np.int64),
        digests,
    )


def digest_of(prompt: str) -> int:
    """Return 63 bits that identify a prompt's text."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "little") >> 1


def labels_of(rounds: Sequence[Round], gamma: int) -> list[tuple[int, int]]:
    """Return a list of (index of a round, class), for an answer whose chains were not cut. class:
    how much of the tail that the round adopted was accepted.

    A round gives a label under three conditions. The round was a hit. The tail that it adopted had
    all `gamma` nodes, so the limit of tokens did not shorten the tail. The end of the sequence did
    not cut the next round short.
    """
    found = []
    for i, (round_, following) in enumerate(pairwise(rounds)):
        is_whole = following.tokens == following.n + 1
        if round_.is_hit and following.depth == gamma and is_whole:
            found.append((i, label(following.n, gamma)))
    return found


def label(n: int, gamma: int) -> int:
    """Return the class of a burst of `gamma` nodes of which `n` were accepted."""
    if n == 0:
        return 0
    return 2 if n == gamma else 1


def uncut(gamma: int) -> Method:
    """Return the method that samples are collected with. This method never cuts a chain."""
    return methods.parse(f"specbranch:gamma={gamma},k_max={methods.K_MAX},epsilon=0,hrad=off")


def collect(
    engine: Engine,
    prompts: Sequence[str],
    params: SamplingParams,
    origin: Origin,
    progress: Progress | None = None,
) -> tuple[Samples, int]:
    """Return (samples, number of prompts that were skipped because they do not fit).

    engine: an engine that keeps features. Prompt i is sampled with seed `params.seed + i`. Raises
    InvalidInputError, EngineError.
    """
    import numpy as np

    features: list[NDArray[np.float16]] = []
    labels: list[int] = []
    owners: list[int] = []
    skipped = 0
    for number, prompt in enumerate(prompts):
        if progress:
            progress(number, len(prompts), f"prompt {number + 1} of {len(prompts)}")
        ids = _fitting(engine, prompt, params)
        if ids is None:
            skipped += 1
            continue
        own = replace(params, seed=((params.seed or 0) + number) % (MAX_SEED + 1))
        kept, rounds = _run(engine, ids, own, uncut(origin.gamma))
        for at, found in labels_of(rounds, origin.gamma):
            features.append(kept[at])
            labels.append(found)
            owners.append(number)
    if not labels:
        raise InvalidInputError(
            f"prompts: expected rounds that adopt a tail of gamma {origin.gamma}, got none"
        )
    samples = Samples(
        origin,
        np.stack(features),
        np.array(labels, np.uint8),
        np.array(owners, np.int64),
        np.array([digest_of(prompt) for prompt in prompts], np.int64),
    )
    check_finite("features", samples.features)
    return samples, skipped


def _run(
    engine: Engine, ids: list[int], params: SamplingParams, method: Method
) -> tuple[list[NDArray[np.float16]], list[Round]]:
    """Generate one answer. Returns the features [inputs] after each round except the last, and the
    results of the rounds."""
    import numpy as np

    engine.add_request("collect", ids, params, method=method)
    kept = []
    while engine.has_unfinished_requests():
        for output in engine.step():
            [answer] = output.outputs
            if not output.finished:
                kept.append(engine.features().astype(np.float16))
            if answer.finish_reason == "error":
                raise EngineError(f"method {method.text}: {answer.stop_reason}")
    rounds = engine.rounds()
    # The engine keeps the results of only the last rounds.
    return kept[len(kept) - len(rounds) + 1 :], rounds


def _fitting(engine: Engine, prompt: str, params: SamplingParams) -> list[int] | None:
    """Return the ids of a prompt; None if it leaves no room for max_tokens."""
    try:
        ids = engine.encode(prompt)
    except InvalidInputError:
        return None
    return ids if len(ids) <= engine.max_model_len - (params.max_tokens or 1) else None


def _check_below(name: str, values: NDArray[Any], limit: int) -> None:
    wrong = values[(values < 0) | (values >= limit)]
    if len(wrong):
        raise InvalidInputError(f"{name}: expected numbers below {limit}, got {wrong[0]}")
