"""Loads a Hugging Face model folder into a `_core.Decoder`: safetensors only, shapes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import check
from ._core import Decoder
from .errors import InvalidInputError
from .model_config import ModelConfig, read_config, read_json
from .safetensors_file import TensorEntry, TensorFile, open_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DTYPES = ("F32", "BF16", "F16")
QUANTISED = ("int8", "int4")  # storages whose products take int8 activations
EMBED = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

Shapes = dict[str, tuple[int, ...]]
Progress = Callable[[int, int], None]  # (bytes loaded, bytes in all)


@dataclass(frozen=True)
class Checkpoint:
    """A model folder whose names and shapes have been checked; no weight has been read."""

    folder: Path
    config: ModelConfig
    files: list[TensorFile]

    def storage(self, dtype: str) -> str:
        """How the weights are kept: `auto` is bfloat16 where every tensor is, else float32."""
        if dtype != "auto":
            return dtype
        stored = {entry.dtype for file in self.files for entry in file.tensors.values()}
        return "bfloat16" if stored == {"BF16"} else "float32"

    def activations(self, dtype: str, activation_dtype: str = "auto") -> str:
        """How products take their rows: `auto` is int8 where the weights are quantised.

        Raises InvalidInputError for int8 next to float weights.
        """
        return activations_of(self.storage(dtype), activation_dtype)

    def decoder(
        self, dtype: str, progress: Progress | None = None, activation_dtype: str = "auto"
    ) -> Decoder:
        """Read the weights. Raises InvalidInputError, naming the tensor."""
        decoder = Decoder(
            self.config.core(),
            storage=self.storage(dtype),
            activations=self.activations(dtype, activation_dtype),
        )
        expected = expected_shapes(self.config)
        total = sum(e.end - e.begin for file in self.files for e in file.tensors.values())
        done = 0
        for file in self.files:
            for name, entry, data in file.read():
                if name in expected:
                    decoder.load(name, entry.dtype, entry.shape, data)
                done += entry.end - entry.begin
                if progress:
                    progress(done, total)
        decoder.finish()
        return decoder


def open_checkpoint(folder: Path) -> Checkpoint:
    """Check a model folder: config, headers, names, shapes, dtypes. Reads no weight."""
    if not check.is_folder(folder):
        raise InvalidInputError(f"model: expected a folder with config.json, got {str(folder)!r}")
    checkpoint = Checkpoint(folder, read_config(folder), _open_files(folder))
    _check_tensors(checkpoint)
    return checkpoint


def activations_of(storage: str, activation_dtype: str = "auto") -> str:
    """float32 or int8: what `activation_dtype` asks for next to weights kept as `storage`."""
    if activation_dtype == "auto":
        return "int8" if storage in QUANTISED else "float32"
    if activation_dtype == "int8" and storage not in QUANTISED:
        raise InvalidInputError(
            f"activation_dtype: expected float32 next to {storage} weights, got int8"
        )
    return activation_dtype


def expected_shapes(config: ModelConfig) -> Shapes:
    """Name and shape of every tensor a checkpoint of this config must hold."""
    hidden, inner = config.hidden, config.inner
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: Shapes = {EMBED: (config.vocab, hidden), "model.norm.weight": (hidden,)}
    if not config.tied:
        shapes[HEAD] = (config.vocab, hidden)
    for i in range(config.layers):
        at = f"model.layers.{i}."
        shapes[at + "input_layernorm.weight"] = (hidden,)
        shapes[at + "post_attention_layernorm.weight"] = (hidden,)
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
    """(name, values) of every tensor: normal with deviation 0.02, norms of 1."""
    import numpy as np  # here, so that `import sbrt` stays fast

    generator = np.random.default_rng(seed)
    for name, shape in expected_shapes(config).items():
        if name.endswith("norm.weight"):
            yield name, np.ones(shape, np.float32)
        else:
            yield name, generator.standard_normal(shape, np.float32) * np.float32(0.02)


def random_decoder(
    config: ModelConfig,
    seed: int,
    storage: str = "float32",
    isa: str = "auto",
    activation_dtype: str = "auto",
) -> Decoder:
    """A decoder of `random_weights`, in memory."""
    activations = activations_of(storage, activation_dtype)
    decoder = Decoder(config.core(), storage=storage, isa=isa, activations=activations)
    for name, values in random_weights(config, seed):
        decoder.load(name, "F32", values.shape, values.view("u1").reshape(-1))
    decoder.finish()
    return decoder


def _open_files(folder: Path) -> list[TensorFile]:
    """model.safetensors, or the shards that model.safetensors.index.json names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if check.is_file(single):
        return [open_file(single)]
    if not check.is_file(index):
        raise InvalidInputError(
            f"{folder}: expected model.safetensors or {index.name}, found neither"
        )
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InvalidInputError(
            f"{index}, weight_map: expected names and files, got {check.show(names)}"
        )
    shards: dict[str, set[str]] = {}
    for tensor, shard in names.items():
        shards.setdefault(_shard_name(index, shard), set()).add(tensor)
    return [_open_shard(folder / shard, tensors) for shard, tensors in sorted(shards.items())]


def _shard_name(index: Path, shard: object) -> str:
    """A plain file name: a shard never lies outside the folder."""
    plain = isinstance(shard, str) and shard.endswith(".safetensors")
    if not plain or any(c in str(shard) for c in "/\\:\0"):
        raise InvalidInputError(
            f"{index}: expected shard names NAME.safetensors inside the folder, "
            f"got {check.show(shard)}"
        )
    return str(shard)


def _open_shard(path: Path, tensors: set[str]) -> TensorFile:
    if not check.is_file(path):
        raise InvalidInputError(f"{path}: expected a shard named by the index, found no such file")
    file = open_file(path)
    if tensors != file.tensors.keys():
        name = min(tensors ^ file.tensors.keys())
        where = "the index only" if name in tensors else "the shard only"
        raise InvalidInputError(
            f"{path}, tensor {check.show(name)}: expected in shard and index, is in {where}"
        )
    return file


def _check_tensors(checkpoint: Checkpoint) -> None:
    expected = expected_shapes(checkpoint.config)
    found: dict[str, TensorEntry] = {}
    for file in checkpoint.files:
        found.update(file.tensors)
    for name in expected:
        if name not in found:
            raise InvalidInputError(f"{checkpoint.folder}: the tensor {name} is missing")
    for name, entry in found.items():
        where = f"{entry.file}, tensor {check.show(name)}"
        if name not in expected:
            _check_spare(checkpoint, name, where)
            continue
        if entry.shape != expected[name]:
            raise InvalidInputError(
                f"{where}: expected shape {list(expected[name])}, got {list(entry.shape)}"
            )
        if entry.dtype not in DTYPES:
            raise InvalidInputError(f"{where}: expected {', '.join(DTYPES)}, got {entry.dtype}")


def _check_spare(checkpoint: Checkpoint, name: str, where: str) -> None:
    """A tensor that is not loaded must say nothing new: a derived table, or the tied head."""
    if name.endswith(".rotary_emb.inv_freq"):
        return
    if checkpoint.config.tied and name == HEAD:
        if _bytes(checkpoint, HEAD) == _bytes(checkpoint, EMBED):
            return
        raise InvalidInputError(f"{where}: expected {EMBED} again, as it is tied, got other values")
    config = checkpoint.config
    raise InvalidInputError(
        f"{where}: expected no such tensor in a {config.architecture} of {config.layers} layers"
    )


def _bytes(checkpoint: Checkpoint, wanted: str) -> memoryview:
    """The stored bytes of one tensor, mapped."""
    for file in checkpoint.files:
        for name, _, data in file.read():
            if name == wanted:
                return memoryview(data)
    return memoryview(b"")
