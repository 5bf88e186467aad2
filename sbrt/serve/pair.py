"""Loads the models that an engine runs: a target and an optional draft, with their tokenizer and
the end-of-sequence ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import check
from .._core import ON_HOST, Model
from ..config import EngineConfig
from ..cores import on_cores
from ..errors import InvalidInputError
from ..model.checkpoint import Checkpoint, open_checkpoint
from ..model.config import read_eos
from ..model.draft import open_draft
from ..model.generation_config import Defaults, read_defaults
from ..model.gguf import is_gguf
from ..model.names import MakeDraft
from ..model.tokenizer import Tokenizer, check_pair
from ..sampling import SamplingParams

Progress = Callable[[int, int], None]  # (bytes loaded so far, total bytes)


@dataclass(frozen=True)
class Pair:
    """A loaded target and an optional loaded draft. Several engines may share one Pair, because it
    never changes.

    vocab: number of ids in use: the target's number of logits, or the tokenizer's size if that is
    smaller. A draft may have logits of fewer ids; it never drafts an id without a logit. holes: ids
    below vocab that no token of the tokenizer has. The logits of these ids are masked in every row.
    dtype: storage of the target's weights. activation_dtype: dtype of the inputs of the target's
    matrix products. generation: the sampling defaults in the model's files.
    """

    target: Model
    draft: Model | None
    tokenizer: Tokenizer | None
    eos: frozenset[int]
    vocab: int
    dtype: str
    generation: Defaults = field(default_factory=Defaults)
    holes: tuple[int, ...] = ()
    activation_dtype: str = "float32"

    @property
    def defaults(self) -> SamplingParams:
        """The sampling parameters of a request whose caller gives none. Raises InvalidInputError,
        naming the field."""
        return self.generation.params()


def load_pair(
    config: EngineConfig,
    *,
    progress: Progress | None = None,
    make_draft: MakeDraft | None = None,
) -> Pair:
    """Check the folders of target and draft, then load both models.

    make_draft: makes the draft if the config names no folder for it. If the folders do not fit each
    other, raises InvalidInputError before any weight is read.
    """
    target = open_checkpoint(Path(config.model))
    draft_folder = config.draft()
    draft = open_draft(Path(draft_folder), target) if draft_folder is not None else None
    tokenizer = _tokenizer(config, target, draft)
    generation = _defaults(target)
    eos = _eos(target, tokenizer)
    activation_dtype = _activations(config, target)
    target_cores, draft_cores = config.cores()
    with on_cores(target_cores):
        target_model = _model(config, target, progress)
    draft_model: Model | None = None
    if draft is not None:
        # Made outside `on_cores`: a config checks that this process may use the config's cores.
        of_draft = _of_draft(config)
        with on_cores(draft_cores):
            draft_model = _model(of_draft, draft, progress, target_model, config.draft_index)
    elif make_draft is not None:
        draft_model = make_draft(target.config)
    vocab = target_model.vocab
    if tokenizer is not None:  # ids beyond the tokenizer's size are padding, not tokens
        vocab = min(vocab, tokenizer.size)
    return Pair(
        target=target_model,
        draft=draft_model,
        tokenizer=tokenizer,
        eos=eos,
        vocab=vocab,
        dtype=_dtype(config, target),
        activation_dtype=activation_dtype,
        generation=generation,
        holes=tokenizer.holes(vocab) if tokenizer is not None else (),
    )


def _of_draft(config: EngineConfig) -> EngineConfig:
    """Return the config with the draft's dtype and activation_dtype."""
    # A caller who asks for int8 means the target. A draft with quantised weights uses int8, too; a
    # draft with float weights cannot.
    activations = "auto" if config.activation_dtype == "int8" else config.activation_dtype
    return replace(config, dtype=config.draft_dtype, activation_dtype=activations)


def _model(
    config: EngineConfig,
    checkpoint: Checkpoint,
    progress: Progress | None,
    target: Model | None = None,
    index: int | None = None,
) -> Model:
    """Load a model onto the configured device.

    target: the model whose embedding a draft may share. index: number of the CUDA device, ON_HOST
    for the CPU (None: the config's).
    """
    if not config.on_cuda or index == ON_HOST:
        return checkpoint.decoder(config.dtype, progress, config.activation_dtype, target)
    try:
        from ..gpu.lane import expect_core, model_of, rows_for
    except ImportError as error:
        raise InvalidInputError(
            f"device {config.device}: expected torch and triton (extra gpu), found no {error.name}"
        ) from None
    device = f"cuda:{config.device_index if index is None else index}"
    expect_core(device)
    return model_of(
        checkpoint,
        device=device,
        dtype=config.dtype,
        rows=rows_for(config.method(), config.seats) if config.mode == "exact" else None,
        attention="triton" if config.enable_prefix_caching else config.attention_backend,
        progress=progress,
        eager=config.enforce_eager,
        programmatic_launch=config.programmatic_launch,
        target=target,
    )


def _dtype(config: EngineConfig, target: Checkpoint) -> str:
    """Return the dtype of the weights. On a CUDA device all float weights have the same dtype."""
    is_one = config.on_cuda and target.activations(config.dtype) != "int8"
    return (target.storage if is_one else target.dtype_name)(config.dtype)


def _activations(config: EngineConfig, target: Checkpoint) -> str:
    given = target.activations(config.dtype, config.activation_dtype)
    return target.storage(config.dtype) if config.on_cuda and given != "int8" else given


def _tokenizer(
    config: EngineConfig, target: Checkpoint, draft: Checkpoint | None
) -> Tokenizer | None:
    if config.skip_tokenizer_init:
        if config.tokenizer is not None:
            raise InvalidInputError("tokenizer: expected none with skip_tokenizer_init, got one")
        return None
    given = Path(config.tokenizer if config.tokenizer is not None else config.model)
    tokenizer = Tokenizer(_tokenizer_file(given))
    if draft is not None:
        _check_words(tokenizer, target, draft)
    return tokenizer


def _check_words(tokenizer: Tokenizer, target: Checkpoint, draft: Checkpoint) -> None:
    """Check that the tokenizers agree. A draft without a tokenizer must have the target's
    vocab_size."""
    file = _tokenizer_file(draft.folder)
    if check.is_file(file):
        check_pair(tokenizer, Tokenizer(file))
    elif draft.config.vocab != target.config.vocab:
        raise InvalidInputError(
            f"{file}: expected a tokenizer.json, or none and the target's vocab_size "
            f"{target.config.vocab}, found none and vocab_size {draft.config.vocab}"
        )


def _tokenizer_file(model: Path) -> Path:
    """Return the file of a model's tokenizer: tokenizer.json in a folder, or the GGUF file
    itself."""
    return model / "tokenizer.json" if check.is_folder(model) else model


def _defaults(target: Checkpoint) -> Defaults:
    """Return the sampling defaults of a GGUF file or of a folder."""
    if not is_gguf(target.folder):
        return read_defaults(target.folder)
    from ..model.gguf.tokenizer import sampling  # imported here, so that `import sbrt` stays fast

    return Defaults(target.folder, sampling(target.files[0]))


def _eos(target: Checkpoint, tokenizer: Tokenizer | None) -> frozenset[int]:
    """Return the end-of-sequence ids that the folder or the file gives.

    A tokenizer's eos_token is ignored: as in transformers, that token ends no answer.
    """
    if is_gguf(target.folder):
        # Imported here, so that `import sbrt` stays fast.
        from ..model.gguf.tokenizer import end_ids

        named = end_ids(target.files[0], target.config.vocab)
    else:
        path, ids = read_eos(target.folder, target.config.vocab)
        named = dict.fromkeys(ids, f"{path}, eos_token_id")
    for i, where in sorted(named.items()) if tokenizer is not None else ():
        if i not in tokenizer.tokens:
            raise InvalidInputError(f"{where}: expected a token of {tokenizer.path}, got {i}")
    return frozenset(named)
