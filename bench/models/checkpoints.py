"""Checkpoints that benches measure: Hugging Face folders, or the user's own models.

`m37` and `m2` are random (`sizes`). `demo` is the demo pair. `demo-75m` and `demo-1g` are the demo
pair with an inflated target (`inflate`). Folders that this module writes are kept under
build/checkpoints.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.models.folders import write_folder
from bench.models.inflate import inflate
from bench.models.sizes import SIZES, config_of
from sbrt import InvalidInputError
from sbrt.model import demo_pair
from sbrt.model.checkpoint import random_weights
from sbrt.model.config_json import config_json
from sbrt.model.fingerprint import fingerprint
from sbrt.model.gguf import is_gguf
from sbrt.model.safetensors_file import bfloat16

BUILD = Path(__file__).parents[2] / "build"
DEMO, INFLATED = "demo", "demo-75m"
INFLATED_TO = {INFLATED: 75_000_000, "demo-1g": 10**9}  # number of parameters
NAMES = (*SIZES, DEMO, *INFLATED_TO)
USUAL = tuple(name for name in NAMES if INFLATED_TO.get(name, 0) < 10**9)  # these fit any machine


@dataclass(frozen=True)
class Given:
    """A checkpoint with its draft. Two checkpoints with different weights have different keys.

    target, draft: Hugging Face folders or GGUF files.
    """

    name: str
    target: Path
    draft: Path | None
    key: str


def given(name: str, build: Path = BUILD) -> Given:
    """Return the checkpoint `name`. Its folders are written first if they do not exist.

    Raises InvalidInputError if the name is unknown.
    """
    if name not in NAMES:
        raise InvalidInputError(f"checkpoint: expected one of {', '.join(NAMES)}, got {name!r}")
    if name in SIZES:
        return _keyed(name, cached(build, name, lambda out: write_random(name, out)), None)
    target = demo_pair.demo_folder(demo_pair.TARGET)
    if name in INFLATED_TO:
        source, small, size = target, fingerprint(target)[:8], INFLATED_TO[name]
        target = cached(build, f"{name}-{small}", lambda out: inflate(source, size, out))
    return _keyed(name, target, demo_pair.demo_folder(demo_pair.DRAFT))


def of_models(target: Path, draft: Path | None) -> Given:
    """Return the user's own folder or file as a checkpoint with the folder's or file's name.

    Raises InvalidInputError if the folder or file cannot be read.
    """
    return _keyed(target.stem if is_gguf(target) else target.name, target, draft)


def cached(build: Path, name: str, write: Callable[[Path], object]) -> Path:
    """Return the folder build/checkpoints/NAME.

    `write` fills the folder if it does not exist. An interrupted write leaves no folder of this
    name.
    """
    folder = build / "checkpoints" / name
    if not folder.is_dir():
        part = folder.with_name(f"{name}.part")
        shutil.rmtree(part, ignore_errors=True)
        write(part)
        part.replace(folder)
    return folder


def write_random(name: str, folder: Path) -> None:
    """Write a checkpoint of SIZES to `folder`: the weights of `sizes.decoder_of`, rounded to
    bfloat16."""
    config = config_of(name)
    weights = ((key, bfloat16(values)) for key, values in random_weights(config, seed=0))
    named = {"model_type": "llama", "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "bfloat16"}
    write_folder(folder, config_json(config) | named, weights)


def _keyed(name: str, target: Path, draft: Path | None) -> Given:
    prints = [fingerprint(folder)[:8] for folder in (target, draft) if folder is not None]
    return Given(name, target, draft, "-".join([name, *prints]))
