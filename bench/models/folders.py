"""Writes a checkpoint as a Hugging Face folder that every engine can read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbrt.model import demo_pair
from sbrt.model.safetensors_file import encode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def write_folder(
    folder: Path, config: dict[str, Any], weights: Iterable[tuple[str, NDArray[np.uint16]]]
) -> None:
    """Write a Hugging Face folder with the demo pair's tokenizer.

    weights: pairs of a tensor's name and its bfloat16 values as 16-bit integers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = demo_pair.demo_folder(demo_pair.TARGET)
    for name in TOKENIZER:
        shutil.copyfile(tokenizer / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    data = encode(dict(weights), {"format": "pt"})
    (folder / "model.safetensors").write_bytes(data)
