"""Reads GGUF files: header, parts of a split model, blocks of weights, sizes and names,
tokenizer."""

from __future__ import annotations

from pathlib import Path

from ... import check


def is_gguf(path: Path) -> bool:
    """Return True if the path of a model refers to a GGUF file."""
    return path.suffix == ".gguf" and not check.is_folder(path)
