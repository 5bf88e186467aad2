"""generation_config.json: what a model's makers sample it with."""

from __future__ import annotations

from pathlib import Path

from . import check
from .errors import InvalidInputError
from .model_config import read_json
from .sampling import SamplingParams

# Their name: ours. The same keys as vLLM reads; all others (do_sample among them) say nothing.
KEYS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}


def default_params(folder: Path) -> SamplingParams:
    """Parameters of a request that gives none: SamplingParams() where the file is silent.

    Raises InvalidInputError, naming file and field.
    """
    path = folder / "generation_config.json"
    if not check.is_file(path):
        return SamplingParams()
    raw = read_json(path)
    given = {ours: raw[key] for key, ours in KEYS.items() if raw.get(key) is not None}
    try:
        return SamplingParams(**given)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}, {error}") from None
