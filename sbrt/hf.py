"""For transformers: model.generate(..., custom_generate=sbrt.hf.generate, draft=D) runs the engine.

The engine reads the weights from the folder that the model was loaded from.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .check import show
from .engine import Engine
from .errors import InvalidInputError
from .sampling import SamplingParams

if TYPE_CHECKING:
    import torch

# Logits processors that SamplingParams covers, by the names of transformers' classes.
COVERED = (
    *("TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper"),
    *("RepetitionPenaltyLogitsProcessor", "MinNewTokensLengthLogitsProcessor"),
)
STOPS = ("MaxLengthCriteria", "EosTokenCriteria")

_engines: weakref.WeakKeyDictionary[Any, dict[Any, Engine]] = weakref.WeakKeyDictionary()


def generate(
    model: Any,
    input_ids: torch.Tensor,
    *,
    generation_config: Any,
    draft: str | os.PathLike[str] | Engine | None = None,
    **more: Any,
) -> torch.Tensor:
    """Return token ids [rows, prompt + new], prompts included, as `model.generate` does.

    input_ids: [rows, prompt], padded on the left where `attention_mask` is 0. draft: the draft's
    folder (None: plain decoding), or an Engine. Short rows are padded with pad_token_id. Greedy
    tokens equal those of transformers, except where logits are nearly tied, because the engine adds
    numbers in another order. Raises InvalidInputError on a setting that the engine does not have.
    """
    import torch

    _refuse(generation_config, more)
    engine = draft if isinstance(draft, Engine) else _engine_of(model, draft)
    rows = input_ids.tolist()
    mask = more.get("attention_mask")  # transformers would pass a parameter `attention_mask` twice
    masks = None if mask is None else mask.tolist()
    prompts = [_unpadded(row, masks[i] if masks else None) for i, row in enumerate(rows)]
    params = [_params(generation_config, len(row)) for row in rows]
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompts], params)
    answers = [_checked(output.outputs[0]) for output in outputs]
    longest = max(map(len, answers))
    pad = generation_config.pad_token_id or 0
    padded = [ids + [pad] * (longest - len(ids)) for ids in answers]
    new = torch.tensor(padded, dtype=input_ids.dtype, device=input_ids.device)
    return torch.cat([input_ids, new.reshape(len(rows), longest)], dim=1)


def _engine_of(model: Any, draft: str | os.PathLike[str] | None) -> Engine:
    """Return the engine for the model's folder and a draft. The engine is made once and lives as
    long as the model."""
    import torch

    engines = _engines.setdefault(model, {})
    if draft not in engines:
        dtype = {torch.float32: "float32", torch.bfloat16: "bfloat16"}.get(model.dtype)
        if dtype is None:
            raise InvalidInputError(
                f"model: expected float32 or bfloat16 weights, got {show(model.dtype)}"
            )
        folder = model.config._name_or_path
        engines[draft] = Engine.from_pretrained(
            folder, draft, dtype=dtype, skip_tokenizer_init=draft is None
        )
    return engines[draft]


def _refuse(config: Any, more: dict[str, Any]) -> None:
    for item in more.get("logits_processor") or ():
        _expect("logits_processor", type(item).__name__, COVERED)
    for item in more.get("stopping_criteria") or ():
        _expect("stopping_criteria", type(item).__name__, STOPS)
    if more.get("streamer") is not None:
        raise InvalidInputError("streamer: expected none, got one; Engine.stream yields tokens")
    if config.return_dict_in_generate:
        raise InvalidInputError("return_dict_in_generate: expected False, got True")


def _expect(name: str, kind: str, known: Sequence[str]) -> None:
    if kind not in known:
        raise InvalidInputError(f"{name}: expected one of {', '.join(known)}, got {kind}")


def _unpadded(row: list[int], mask: list[int] | None) -> list[int]:
    """Return the tokens of a row without the padding on its left."""
    if mask is None or 0 not in mask:
        return row
    begin = mask.index(1) if 1 in mask else len(mask)
    if 0 in mask[begin:]:
        raise InvalidInputError(
            "attention_mask: expected padding on the left only, got it elsewhere"
        )
    return row[begin:]


def _params(config: Any, prompt: int) -> SamplingParams:
    """Convert a GenerationConfig to SamplingParams. prompt: number of the row's tokens, padding
    included."""
    import torch

    end = config.eos_token_id
    ends = [] if end is None else end if isinstance(end, list) else [int(end)]
    given: dict[str, Any] = {
        "max_tokens": max(0, config.max_length - prompt),
        "min_tokens": config.min_new_tokens or 0,
        "repetition_penalty": config.repetition_penalty or 1.0,
        "stop_token_ids": ends,
        "ignore_eos": True,
        "temperature": 0.0,
    }
    if config.do_sample:  # the seed comes from torch, so torch.manual_seed makes answers repeatable
        given |= {
            "temperature": 1.0 if config.temperature is None else config.temperature,
            "top_k": config.top_k or 0,
            "top_p": 1.0 if config.top_p is None else config.top_p,
            "min_p": config.min_p or 0.0,
            "seed": int(torch.randint(2**62, (1,)).item()),
        }
    return SamplingParams(**given)


def _checked(answer: Any) -> list[int]:
    if answer.finish_reason == "error":
        raise InvalidInputError(f"generate: {answer.stop_reason}")
    ids: list[int] = answer.token_ids
    return ids
