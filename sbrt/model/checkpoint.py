"""Loads a Hugging Face model folder or a GGUF file into a `_core.Decoder`. All shapes are checked
before a weight is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import check
from .._core import Decoder, Format, Model
from ..errors import InvalidInputError
from .config import ModelConfig, read_config, read_json
from .folder import open_files, stored_in
from .gemma import text_name
from .gguf import is_gguf
from .quantization import read_scheme
from .quantized import Layout
from .safetensors_file import TensorFile
from .stored import Stored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DTYPES = ("F32", "BF16", "F16")
QUANTISED = ("int8", "int4")  # formats of weights whose products take int8 inputs
EMBED = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

Shapes = dict[str, tuple[int, ...]]
Progress = Callable[[int, int], None]  # (bytes loaded so far, total bytes)


@dataclass(frozen=True)
class Checkpoint:
    """A model whose names and shapes have been checked; no weight has been read.

    folder: the folder, or the GGUF file. weights: the stored weights by name, in the order of the
    files; a tied head and derived constants are included. head_ids: for a draft (draft.py), the
    target's ids for which its LM head has rows, ascending; () means all. shares_embedding: True for
    a draft that uses the target's embedding.
    """

    folder: Path
    config: ModelConfig
    files: list[TensorFile]
    weights: dict[str, Stored]
    head_ids: tuple[int, ...] = ()
    shares_embedding: bool = False

    @property
    def shapes(self) -> Shapes:
        """Name and shape of every tensor that the checkpoint's own files must hold."""
        shapes = expected_shapes(self.config)
        if self.shares_embedding:
            del shapes[EMBED]
        return shapes

    def storage(self, dtype: str) -> str:
        """Return the storage of the weights that are not in `formats`.

        `auto` means bfloat16 if every tensor that is not quantised is bfloat16. Otherwise it means
        float32.
        """
        if dtype != "auto":
            return dtype
        stored = {weight.dtype for weight in self.weights.values() if weight.layout is None}
        return "bfloat16" if stored == {"BF16"} else "float32"

    def formats(self, dtype: str) -> dict[str, Layout]:
        """Return the formats of the matrices that `auto` keeps in the format of their files, by
        name.

        These are the quantised matrices. A GGUF file also keeps its bfloat16 matrices, although its
        norms are float32.
        """
        if dtype != "auto":
            return {}
        bfloat16 = Layout("bfloat16") if is_gguf(self.folder) else None
        found: dict[str, Layout] = {}
        for name, shape in self.shapes.items():
            weight = self.weights[name]
            layout = bfloat16 if weight.dtype == "BF16" else weight.layout
            if layout is not None and len(shape) == 2:
                found[name] = layout
        return found

    def dtype_name(self, dtype: str) -> str:
        """Return the dtype of the weights for a message. With `auto` it is the dtype that takes the
        most bytes."""
        if dtype != "auto" or not self.formats(dtype):
            return self.storage(dtype)
        sizes: dict[str, int] = {}
        for weight in self.weights.values():
            sizes[weight.dtype] = sizes.get(weight.dtype, 0) + weight.size
        return max(sizes, key=lambda name: sizes[name])

    def activations(self, dtype: str, activation_dtype: str = "auto") -> str:
        """Return the dtype of a product's inputs. `auto` means int8 if the weights are quantised.

        Raises InvalidInputError for int8 with float weights.
        """
        elements = {layout.element for layout in self.formats(dtype).values()}
        kept = next((name for name in QUANTISED if name in elements), self.storage(dtype))
        return activations_of(kept, activation_dtype)

    def decoder(
        self,
        dtype: str,
        progress: Progress | None = None,
        activation_dtype: str = "auto",
        target: Model | None = None,
    ) -> Decoder:
        """Read the weights into a Decoder. Raises InvalidInputError, naming the tensor.

        target: the model whose embedding a draft shares; other models need none.
        """
        formats = self.formats(dtype)
        decoder = Decoder(
            self.config.core(),
            storage=self.storage(dtype),
            activations=self.activations(dtype, activation_dtype),
            formats={name: Format(**asdict(layout)) for name, layout in formats.items()},
            head_ids=self.head_ids,
            target=self._lender(target),
        )
        for name in self.read(progress):
            weight = self.weights[name]
            if name in formats and weight.layout is not None:
                _load_quantised(decoder, name, weight)
            else:
                stored, data = weight.numbers()
                decoder.load(name, stored, weight.shape, data)
        decoder.finish()
        return decoder

    def _lender(self, target: Model | None) -> Decoder | None:
        """Return the target's decoder if this draft shares the target's embedding, otherwise
        None."""
        if not self.shares_embedding:
            return None
        if not isinstance(target, Decoder):
            raise InvalidInputError(
                f"{self.folder}: expected a target on the CPU that lends its embedding, got none"
            )
        return target

    def read(self, progress: Progress | None = None) -> Iterator[str]:
        """Yield the names of the weights that the config needs, in the order of the files.

        Calls `progress` after the caller has used each weight.
        """
        expected = self.shapes
        total = sum(weight.size for weight in self.weights.values())
        done = 0
        for name, weight in self.weights.items():
            if name in expected:
                yield name
            done += weight.size
            if progress:
                progress(done, total)


def open_checkpoint(path: Path) -> Checkpoint:
    """Check a model folder or a GGUF file: sizes, headers, names, shapes, dtypes.

    Reads no weight. A draft that needs its target is refused; open_draft accepts such a draft.
    Raises InvalidInputError, naming the file and the fault.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.config.draft_vocab:
        raise InvalidInputError(
            f"{path / 'config.json'}, draft_vocab_size: expected none but in a draft's folder, "
            f"got {checkpoint.config.draft_vocab}"
        )
    check_tensors(checkpoint)
    return checkpoint


def read_checkpoint(path: Path) -> Checkpoint:
    """Read sizes and headers of a model folder or a GGUF file. The tensors are not checked.

    Raises InvalidInputError, naming the file.
    """
    if is_gguf(path):
        from .gguf.model import read_model  # imported here, so that `import sbrt` stays fast

        model = read_model(path)
        return Checkpoint(path, model.config, model.files, model.weights)
    if not check.is_folder(path):
        raise InvalidInputError(
            f"model: expected a folder with config.json or a .gguf file, got {str(path)!r}"
        )
    config, files = read_config(path), open_files(path)
    return Checkpoint(path, config, files, _weights(path, files))


def _load_quantised(decoder: Decoder, name: str, weight: Stored) -> None:
    """Load a weight in parts of some rows, so that there is never a second copy of the whole
    matrix."""
    import numpy as np  # imported here, so that `import sbrt` stays fast

    for first, piece in weight.pieces():
        levels, scales = map(np.ascontiguousarray, (piece.levels, piece.scales))
        minimums = None if piece.minimums is None else np.ascontiguousarray(piece.minimums)
        decoder.load_quantised(name, levels, scales, minimums, first)


def activations_of(storage: str, activation_dtype: str = "auto") -> str:
    """Return the dtype, float32 or int8, that `activation_dtype` means for weights stored as
    `storage`."""
    if activation_dtype == "auto":
        return "int8" if storage in QUANTISED else "float32"
    if activation_dtype == "int8" and storage not in QUANTISED:
        raise InvalidInputError(
            f"activation_dtype: expected float32 next to {storage} weights, got int8"
        )
    return activation_dtype


def expected_shapes(config: ModelConfig) -> Shapes:
    """Return name and shape of every tensor that a checkpoint of this config must hold."""
    hidden, inner = config.hidden, config.inner
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: Shapes = {EMBED: (config.vocab, hidden), "model.norm.weight": (hidden,)}
    if not config.tied:
        shapes[HEAD] = (config.columns, hidden)
    for i in range(config.layers):
        at = f"model.layers.{i}."
        norms = ["input_layernorm", "post_attention_layernorm"]
        if config.post_norms:
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        shapes |= {f"{at}{norm}.weight": (hidden,) for norm in norms}
        for name, out, columns, biased in (
            ("self_attn.q_proj", queries, hidden, config.qkv_bias),
            ("self_attn.k_proj", keys, hidden, config.qkv_bias),
            ("self_attn.v_proj", keys, hidden, config.qkv_bias),
            ("self_attn.o_proj", hidden, queries, config.o_bias),
            ("mlp.gate_proj", inner, hidden, config.mlp_bias),
            ("mlp.up_proj", inner, hidden, config.mlp_bias),
            ("mlp.down_proj", hidden, inner, config.mlp_bias),
        ):
            shapes[f"{at}{name}.weight"] = (out, columns)
            if biased:
                shapes[f"{at}{name}.bias"] = (out,)
        if config.head_norms:
            shapes[at + "self_attn.q_norm.weight"] = (config.head_dim,)
            shapes[at + "self_attn.k_norm.weight"] = (config.head_dim,)
    return shapes


def random_weights(config: ModelConfig, seed: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (name, values) of every tensor. Values are normal with standard deviation 0.02. Norm
    weights are neutral."""
    import numpy as np  # imported here, so that `import sbrt` stays fast

    generator = np.random.default_rng(seed)
    for name, shape in expected_shapes(config).items():
        if name.endswith("norm.weight"):
            yield name, np.full(shape, 0 if config.norm_offset else 1, np.float32)
        else:
            yield name, generator.standard_normal(shape, np.float32) * np.float32(0.02)


def random_decoder(
    config: ModelConfig,
    seed: int,
    storage: str = "float32",
    isa: str = "auto",
    activation_dtype: str = "auto",
) -> Decoder:
    """Return a decoder of `random_weights`, made in memory."""
    activations = activations_of(storage, activation_dtype)
    decoder = Decoder(config.core(), storage=storage, isa=isa, activations=activations)
    for name, values in random_weights(config, seed):
        decoder.load(name, "F32", values.shape, values.view("u1").reshape(-1))
    decoder.finish()
    return decoder


def _weights(folder: Path, files: list[TensorFile]) -> dict[str, Stored]:
    """Return the weights of a text model in a folder. Each quantised matrix is one weight."""
    path = folder / "config.json"
    raw = read_json(path)
    scheme, stored = read_scheme(path, raw), stored_in(files)
    if "text_config" in raw:
        named = ((text_name(name), weight) for name, weight in stored.items())
        stored = {name: weight for name, weight in named if name is not None}
    if scheme is None:
        return stored
    from .quantized_folder import packed_weights  # imported here, so that `import sbrt` stays fast

    return packed_weights(path, scheme, stored)


def check_tensors(checkpoint: Checkpoint) -> None:
    """Raise InvalidInputError if a tensor is missing or unknown, or has a wrong shape or dtype."""
    expected = checkpoint.shapes
    for name in expected:
        if name not in checkpoint.weights:
            raise InvalidInputError(f"{checkpoint.folder}: the tensor {name} is missing")
    for name, weight in checkpoint.weights.items():
        if name not in expected:
            _check_spare(checkpoint, name)
            continue
        if weight.shape != expected[name]:
            raise InvalidInputError(
                f"{weight.where}: expected shape {list(expected[name])}, got {list(weight.shape)}"
            )
        is_matrix = len(weight.shape) == 2
        if weight.dtype not in DTYPES and (weight.layout is None or not is_matrix):
            raise InvalidInputError(
                f"{weight.where}: expected {', '.join(DTYPES)}, got {weight.dtype}"
            )


def _check_spare(checkpoint: Checkpoint, name: str) -> None:
    """Check that a tensor that is not loaded is redundant: a derived table, or the tied head."""
    if name.endswith(".rotary_emb.inv_freq"):
        return
    config, weight = checkpoint.config, checkpoint.weights[name]
    if config.tied and name == HEAD:
        embed = checkpoint.weights[EMBED]
        if weight.shape == embed.shape and _bytes(weight) == _bytes(embed):
            return
        raise InvalidInputError(
            f"{weight.where}: expected {EMBED} again, as it is tied, got other values"
        )
    raise InvalidInputError(
        f"{weight.where}: expected no such tensor in a {config.architecture} of "
        f"{config.layers} layers"
    )


def _bytes(weight: Stored) -> memoryview:
    """Return the bytes of a weight, mapped from its file."""
    return memoryview(weight.numbers()[1])
