"""Turns names of models on the Hugging Face hub into local paths, with `huggingface_hub`.

That library is optional. Its settings for cache, offline mode and access token apply. Only files
that sbrt reads are fetched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import check
from ..config import EngineConfig, Folder, SpeculativeConfig, folder
from ..errors import InvalidInputError
from .config import read_json

# Matches ORG/MODEL, or ORG/MODEL/FILE.gguf, where the file may lie in a folder of its repository.
NAME = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:/(?P<file>.+\.gguf))?", re.ASCII)
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip
SMALL = ("config.json", "generation_config.json", *TOKENIZER)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

Download = Callable[..., Any]


def located(name: Folder, *, tokenizer: bool = False) -> Path:
    """Return the local path of a model. A model that is only on the hub is fetched.

    A path that exists, or that is not a hub name, is returned unchanged. tokenizer: if True, only
    the tokenizer's files of a model folder are fetched; a GGUF file is always fetched whole. Raises
    InvalidInputError if the library is missing or finds nothing.
    """
    path = folder("model", name)
    match = NAME.fullmatch(os.fspath(name))
    is_missing = not (check.is_folder(path) or check.is_file(path))
    if match is None or not is_missing or match["repo"].endswith(".gguf"):
        return path
    if match["file"] is not None:
        return _file(match["repo"], match["file"])
    return _snapshot(match["repo"], TOKENIZER) if tokenizer else _folder(match["repo"])


def with_local_paths(config: EngineConfig) -> EngineConfig:
    """Return the config with local paths in place of hub names. Raises InvalidInputError."""
    changes: dict[str, Any] = {"model": located(config.model)}
    if config.tokenizer is not None:
        changes["tokenizer"] = located(config.tokenizer, tokenizer=True)
    given = config.speculative
    if isinstance(given, SpeculativeConfig) and given.model is not None:
        changes["speculative"] = replace(given, model=located(given.model))
    return replace(config, **changes)


def _folder(repo: str) -> Path:
    """Fetch a model folder. Its JSON files come first, because the index file names the files of
    weights."""
    first = _snapshot(repo, [*SMALL, INDEX])
    index = first / INDEX
    shards = read_json(index).get("weight_map") if check.is_file(index) else None
    names = [WEIGHTS]
    if isinstance(shards, dict):  # a wrong index is reported by the reader of the folder
        names = sorted({str(shard) for shard in shards.values()})
    return _snapshot(repo, names, revision=first.name)


def _file(repo: str, name: str) -> Path:
    """Fetch a GGUF file, or all parts of a split one."""
    from .gguf.parts import PART  # imported here, so that `import sbrt` stays fast

    match = PART.fullmatch(name)
    wanted = [name]
    if match is not None:
        wanted = [f"{match[1]}-{i + 1:05d}-of-{match[3]}.gguf" for i in range(int(match[3]))]
    return _snapshot(repo, wanted) / name


def _snapshot(repo: str, patterns: Sequence[str], **more: Any) -> Path:
    """Fetch all files of a repository whose names match. Return the local folder."""
    download = _library(repo)
    try:
        return Path(download(repo, allow_patterns=list(patterns), **more))
    except Exception as error:  # errors of the library or of its network code
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidInputError(
            f"model: expected a folder, a .gguf file or a name on the Hugging Face hub, "
            f"got {check.show(repo)}: {said}"
        ) from None


def _library(repo: str) -> Download:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InvalidInputError(
            f"model: expected a folder or a .gguf file, got {check.show(repo)}; for names on the "
            "Hugging Face hub install huggingface_hub (extra hub)"
        ) from None
    found: Download = snapshot_download
    return found
