"""Identifies a model folder by a hash, without reading gigabytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from .checkpoint import Checkpoint, read_checkpoint
from .rope import Rope

SAMPLES, SAMPLE = 64, 4096  # number of samples of a file's data, number of bytes of a sample
# Fields of ModelConfig that were added after the first fingerprints, with their neutral values. A
# neutral field is left out of the hash, so that old fingerprints stay valid.
YOUNGER = {
    "local": (), "local_theta": 0.0, "local_rope": asdict(Rope()), "query_scalar": 0.0,
    "gelu": False, "post_norms": False, "norm_offset": False, "scaled_embedding": False,
    "draft_vocab": 0,
}  # fmt: skip


def fingerprint(folder: Path) -> str:
    """Return a sha256, in hex, over the config and over the size, the header and samples of every
    weight file.

    Raises InvalidInputError if the folder holds no model.
    """
    return fingerprint_of(read_checkpoint(folder))


def fingerprint_of(checkpoint: Checkpoint) -> str:
    """Return the fingerprint of an open checkpoint."""
    sizes = asdict(checkpoint.config)
    if not sizes["rope"]["divisors"]:  # older fingerprints do not include this field
        del sizes["rope"]["divisors"]
    for name, idle in YOUNGER.items():
        if sizes[name] == idle:
            del sizes[name]
    found = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode())
    for file in checkpoint.files:
        size = file.path.stat().st_size
        found.update(f"\n{file.path.name} {size}\n".encode())
        with file.path.open("rb") as data:
            found.update(data.read(file.data_begin))
            for at in sample_offsets(file.data_begin, size):
                data.seek(at)
                found.update(data.read(SAMPLE))
    return found.hexdigest()


def sample_offsets(begin: int, size: int) -> list[int]:
    """Return the offsets of samples: evenly spaced in the data, with its first and last bytes.

    For a small file the samples cover all data. begin: the offset of the data. size: number of
    bytes of the file.
    """
    if size - begin <= SAMPLES * SAMPLE:
        return list(range(begin, size, SAMPLE))
    last = size - SAMPLE
    return [begin + (last - begin) * i // (SAMPLES - 1) for i in range(SAMPLES)]
