"""Loads what an engine runs: a target, perhaps a draft, their tokenizer, the ids that end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import check
from ._core import Model
from .checkpoint import Checkpoint, open_checkpoint
from .config import EngineConfig
from .errors import InvalidInputError
from .generation_config import default_params
from .model_config import ModelConfig, read_eos
from .sampling import SamplingParams
from .tokenizer import Tokenizer, check_pair

Progress = Callable[[int, int], None]  # (bytes loaded, bytes in all)
MakeDraft = Callable[[ModelConfig], Model]  # a draft made for a target


@dataclass(frozen=True)
class Pair:
    """Weights and words. May serve several engines at once; nothing in it changes.

    vocab: rows of logits are cut to this many ids, the smallest of models and tokenizer; holes:
    ids below it that no token of the tokenizer has, masked in every row.
    dtype: storage of the target's weights. activation_dtype: of the inputs of its products, on a
    CUDA device of its arithmetic. defaults: of a request without SamplingParams.
    """

    target: Model
    draft: Model | None
    tokenizer: Tokenizer | None
    eos: frozenset[int]
    vocab: int
    dtype: str
    defaults: SamplingParams = field(default_factory=SamplingParams)
    holes: tuple[int, ...] = ()
    activation_dtype: str = "float32"


def load_pair(
    config: EngineConfig,
    *,
    progress: Progress | None = None,
    make_draft: MakeDraft | None = None,
) -> Pair:
    """Check both folders, then load them; `make_draft` makes the draft instead of a folder.

    Raises InvalidInputError before any weight is read if the folders do not fit each other.
    """
    target = open_checkpoint(Path(config.model))
    draft_folder = config.draft()
    draft = open_checkpoint(Path(draft_folder)) if draft_folder is not None else None
    tokenizer = _tokenizer(config, draft)
    defaults = default_params(target.folder)
    draft_model: Model | None = None
    if draft is not None:
        draft_model = _model(config, draft, progress)
    elif make_draft is not None:
        draft_model = make_draft(target.config)
    target_model = _model(config, target, progress)
    vocab = target_model.vocab
    if draft_model is not None:
        vocab = min(vocab, draft_model.vocab)
    if tokenizer is not None:
        vocab = min(vocab, tokenizer.size)
    return Pair(
        target=target_model,
        draft=draft_model,
        tokenizer=tokenizer,
        eos=_eos(target, tokenizer),
        vocab=vocab,
        dtype=target.storage(config.dtype),
        activation_dtype=_activations(config, target),
        defaults=defaults,
        holes=tokenizer.holes(vocab) if tokenizer is not None else (),
    )


def _model(config: EngineConfig, checkpoint: Checkpoint, progress: Progress | None) -> Model:
    """The weights where the config wants them."""
    if not config.on_cuda:
        return checkpoint.decoder(config.dtype, progress, config.activation_dtype)
    try:
        from .gpu.lane import expect_core, model_of, rows_for
    except ImportError as error:
        raise InvalidInputError(
            f"device {config.device}: expected torch and triton (extra gpu), found no {error.name}"
        ) from None
    expect_core(config.device)
    return model_of(
        checkpoint,
        device=f"cuda:{config.device_index}",
        dtype=config.dtype,
        rows=rows_for(config.method()),
        attention=config.attention_backend,
        progress=progress,
        eager=config.enforce_eager,
    )


def _activations(config: EngineConfig, target: Checkpoint) -> str:
    if config.on_cuda:
        return target.storage(config.dtype)
    return target.activations(config.dtype, config.activation_dtype)


def _tokenizer(config: EngineConfig, draft: Checkpoint | None) -> Tokenizer | None:
    if config.skip_tokenizer_init:
        if config.tokenizer is not None:
            raise InvalidInputError("tokenizer: expected none with skip_tokenizer_init, got one")
        return None
    given = Path(config.tokenizer if config.tokenizer is not None else config.model)
    tokenizer = Tokenizer(given / "tokenizer.json" if check.is_folder(given) else given)
    if draft is not None:
        check_pair(tokenizer, Tokenizer(draft.folder / "tokenizer.json"))
    return tokenizer


def _eos(target: Checkpoint, tokenizer: Tokenizer | None) -> frozenset[int]:
    named = read_eos(target.folder, target.config.vocab)
    # An id without a logit ends nothing: a tokenizer may know more tokens than the model.
    more = {i for i in tokenizer.eos() if i < target.config.vocab} if tokenizer else set()
    return frozenset(named | more)
