"""Writes a draft's folder: config.json, 4-bit weights, and the ids of its LM head.

If the rows of some matrix cannot be divided into groups of 32, all matrices are bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files import write_file
from ...model.checkpoint import EMBED
from ...model.config import ModelConfig
from ...model.config_json import config_json
from ...model.draft import D2T
from ...model.safetensors_file import bfloat16, encode
from .packing import fits, pack, scheme

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def write_draft(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, NDArray[np.float32]],
    ids: NDArray[np.int64],
    *,
    shares_embedding: bool,
) -> int:
    """Write a folder that `open_draft` reads; returns its size in bytes.

    weights: the tensors by Hugging Face name. ids: the target's id of each row of the LM head,
    ascending.
    shares_embedding: the draft uses the target's embedding, and the folder has none. Each file
    appears only when it is complete; config.json comes last.
    """
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, NDArray[Any]] = {}
    for name, values in weights.items():
        if name == EMBED and shares_embedding:
            continue
        if values.ndim == 2 and fits(config):
            tensors |= pack(name.removesuffix(".weight"), values)
        else:
            tensors[name] = bfloat16(values) if values.ndim == 2 else values.astype(np.float32)
    tensors[D2T] = ids - np.arange(len(ids), dtype=np.int64)
    data = encode(tensors, {"format": "pt"})
    described = config_json(config) | ({"quantization_config": scheme()} if fits(config) else {})
    text = (json.dumps(described, indent=2) + "\n").encode()
    write_file(folder / "model.safetensors", data)
    write_file(folder / "config.json", text)
    return len(data) + len(text)
