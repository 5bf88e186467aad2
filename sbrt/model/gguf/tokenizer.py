"""Converts the tokenizer in a GGUF file's metadata to a tokenizer.json.

If `tokenizer.ggml.model` is gpt2, the tokenizer is byte-level BPE, and `tokenizer.ggml.pre` names
the patterns that split a text before merging. If it is llama, the tokenizer is SentencePiece's BPE.
It has scores instead of merges, and falls back to bytes where no token fits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import check
from ...check import show
from ...errors import InvalidInputError
from ..generation_config import as_meant
from ..safetensors_file import TensorFile
from .header import open_gguf
from .splits import ALIKE, LLAMA3, SPLITS

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # values of tokenizer.ggml.token_type
MAX_TOKENS = 2**24
SPACE = "\u2581"  # stands for a space in tokens of SentencePiece
# Metadata entries general.sampling.*, and their names in SamplingParams. Other such entries have no
# counterpart.
SAMPLING = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}  # fmt: skip
NAMED_IDS = {
    "bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}  # fmt: skip
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Tokens that end a turn. Many files do not mark them, so llama.cpp recognises them by their text.
TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>")


@dataclass(frozen=True)
class Words:
    """The tokenizer in a file's metadata, already checked.

    model: gpt2 or llama. pre: a key of SPLITS or ALIKE. kinds: the type of each token. begin, end:
    ids of the tokens before and after a prompt; None: no such token.
    """

    path: Path
    model: str
    pre: str
    tokens: list[str]
    kinds: Sequence[int]
    merges: list[str]
    scores: Sequence[float]
    unknown: int | None
    begin: int | None
    end: int | None
    space_prefix: bool


def tokenizer_json(path: Path) -> bytes:
    """Return a tokenizer.json with the same ids as the file's tokenizer. Raises
    InvalidInputError."""
    words = read_words(path)
    build = _byte_level if words.model == "gpt2" else _sentencepiece
    return json.dumps(build(words) | _common(words)).encode()


def end_ids(file: TensorFile, vocab: int) -> dict[int, str]:
    """Return the ids below `vocab` that end a sequence, turn or message, each with the metadata
    entry that names it.

    If there is no eot_token_id, the ids include the control tokens in TURN_ENDS. Raises
    InvalidInputError.
    """
    fields = _Fields(file.path, file.metadata)
    named = ((fields.token(key, vocab), fields.where(key)) for key in END_KEYS)
    found = {i: where for i, where in named if i is not None}
    tokens = fields.get("tokens")
    if fields.get("eot_token_id") is None and isinstance(tokens, list):
        kinds = fields.numbers("token_type", len(tokens), "iu")
        for text in TURN_ENDS:
            i = tokens.index(text) if text in tokens else vocab
            if i < vocab and kinds and kinds[i] == CONTROL:
                found.setdefault(i, fields.where("tokens"))
    return found


def sampling(file: TensorFile) -> dict[str, Any]:
    """Return the sampling parameters in the file, by their names in SamplingParams. Values are read
    as from a generation_config.json."""
    entries = {ours: file.metadata.get(f"general.sampling.{key}") for key, ours in SAMPLING.items()}
    return {name: as_meant(name, value) for name, value in entries.items() if value is not None}


def chat_template(file: TensorFile) -> str | None:
    """Return the Jinja template of a conversation, None if there is none. Raises
    InvalidInputError."""
    found = file.metadata.get("tokenizer.chat_template")
    return None if found is None else check.text(f"{file.path}, tokenizer.chat_template", found)


def special_tokens(file: TensorFile) -> dict[str, str]:
    """Return the texts of the tokens that a chat template may use, by the template's names for
    them. Raises InvalidInputError."""
    fields = _Fields(file.path, file.metadata)
    tokens = fields.texts("tokens")
    ids = {name: fields.token(key, len(tokens)) for name, key in NAMED_IDS.items()}
    return {name: tokens[i] for name, i in ids.items() if i is not None}


def read_words(path: Path) -> Words:
    """Read and check the tokenizer's entries in the metadata. Raises InvalidInputError, naming the
    entry."""
    fields = _Fields(path, open_gguf(path).metadata)
    model = check.one_of(fields.where("model"), fields.get("model"), ("gpt2", "llama"))
    tokens = fields.texts("tokens")
    if not 0 < len(tokens) <= MAX_TOKENS:
        raise InvalidInputError(
            f"{fields.where('tokens')}: expected 1 to {MAX_TOKENS} tokens, got {len(tokens)}"
        )
    count = len(tokens)
    pre = _pre(fields) if model == "gpt2" else ""
    adds_begin = fields.flag("add_bos_token", model == "llama" or pre in LLAMA3)
    adds_end = fields.flag("add_eos_token", False)
    begin, end = fields.token("bos_token_id", count), fields.token("eos_token_id", count)
    scores = fields.numbers("scores", count, "f") if model == "llama" else []
    return Words(
        path=path,
        model=model,
        pre=pre,
        tokens=tokens,
        kinds=fields.numbers("token_type", count, "iu") or [1] * count,
        merges=fields.texts("merges") if model == "gpt2" else [],
        scores=scores,
        unknown=fields.token("unknown_token_id", count),
        begin=begin if adds_begin else None,
        end=end if adds_end else None,
        space_prefix=fields.flag("add_space_prefix", model == "llama"),
    )


@dataclass(frozen=True)
class _Fields:
    """The metadata entries named tokenizer.ggml.*. Each entry is checked when it is read."""

    path: Path
    metadata: Any

    def where(self, key: str) -> str:
        return f"{self.path}, tokenizer.ggml.{key}"

    def get(self, key: str) -> Any:
        return self.metadata.get(f"tokenizer.ggml.{key}")

    def texts(self, key: str) -> list[str]:
        found = self.get(key)
        if not isinstance(found, list):
            raise InvalidInputError(
                f"{self.where(key)}: expected an array of strings, got {show(found)}"
            )
        return found

    def numbers(self, key: str, count: int, kinds: str) -> list[Any]:
        """Return an entry of `count` numbers; [] if it is missing. kinds: accepted kinds of numpy
        dtypes."""
        found = self.get(key)
        if found is None:
            return []
        if getattr(getattr(found, "dtype", None), "kind", "") not in kinds or len(found) != count:
            raise InvalidInputError(
                f"{self.where(key)}: expected an array of {count} numbers, got {show(found)}"
            )
        values: list[Any] = found.tolist()
        return values

    def flag(self, key: str, default: bool) -> bool:
        found = self.get(key)
        return default if found is None else check.flag(self.where(key), found)

    def token(self, key: str, count: int) -> int | None:
        found = self.get(key)
        return None if found is None else check.integer(self.where(key), found, 0, count - 1)


def _pre(fields: _Fields) -> str:
    """Return the entry `pre`, a key of SPLITS or ALIKE. Older files lack this entry; for them
    "default" is returned."""
    given = fields.get("pre")
    given = "default" if given is None else given
    return check.one_of(fields.where("pre"), given, [*SPLITS, *ALIKE])


# --- the parts of a tokenizer.json ---


def _common(words: Words) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_added(words)),
        "post_processor": _around(words),
    }


def _added(words: Words) -> Iterator[dict[str, Any]]:
    """Yield the tokens that the tokenizer finds in a text before it splits the text. Control tokens
    are special, so answers leave them out."""
    for i, kind in enumerate(words.kinds):
        if kind in (CONTROL, USER_DEFINED) or (kind == UNKNOWN and words.model == "llama"):
            yield {
                "id": i,
                "content": words.tokens[i],
                "special": kind != USER_DEFINED,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }


def _around(words: Words) -> dict[str, Any] | None:
    """Return the post-processor that puts the begin and end tokens around a prompt; None if the
    file has no such tokens."""
    ids = [i for i in (words.begin, words.end) if i is not None]
    if not ids:
        return None

    def piece(i: int, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": words.tokens[i], "type_id": kind}}

    def text(name: str, kind: int) -> list[dict[str, Any]]:
        begin = [piece(words.begin, kind)] if words.begin is not None else []
        end = [piece(words.end, kind)] if words.end is not None else []
        return [*begin, {"Sequence": {"id": name, "type_id": kind}}, *end]

    named = {
        words.tokens[i]: {"id": words.tokens[i], "ids": [i], "tokens": [words.tokens[i]]}
        for i in ids
    }
    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": text("A", 0) + text("B", 1),
        "special_tokens": named,
    }


def _vocabulary(words: Words) -> dict[str, int]:
    """Return the id of each token. Raises InvalidInputError if a token appears twice: one of its
    ids would have no token."""
    found = {token: i for i, token in enumerate(words.tokens)}
    if len(found) < len(words.tokens):
        twice = next(token for i, token in enumerate(words.tokens) if found[token] != i)
        raise InvalidInputError(
            f"{words.path}, tokenizer.ggml.tokens: the token {show(twice)} appears twice"
        )
    return found


def _bpe(words: Words, merges: list[list[str]], **more: Any) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": _vocabulary(words),
        "merges": merges,
    } | more


def _byte_level(words: Words) -> dict[str, Any]:
    splits: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
        for p in SPLITS[ALIKE.get(words.pre, words.pre)]
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [*splits, level | {"use_regex": False}],
        },
        "decoder": level | {"use_regex": True},
        "model": _bpe(
            words, [_halves(words, merge) for merge in words.merges],
            ignore_merges=words.pre in LLAMA3,
        ),
    }  # fmt: skip


def _halves(words: Words, merge: str) -> list[str]:
    """Return the two tokens of a merge, which is written `left right`. The left token may begin
    with a space."""
    at = merge.find(" ", 1)
    if at < 0:
        raise InvalidInputError(
            f"{words.path}, tokenizer.ggml.merges: expected two tokens, got {show(merge)}"
        )
    return [merge[:at], merge[at + 1 :]]


def _sentencepiece(words: Words) -> dict[str, Any]:
    space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prefix = {"type": "Prepend", "prepend": SPACE}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoders = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    unknown = None if words.unknown is None else words.tokens[words.unknown]
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [prefix, space] if words.space_prefix else [space],
        },
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [*decoders, strip] if words.space_prefix else decoders,
        },
        "model": _bpe(
            words, _merges_of_scores(words), unk_token=unknown, fuse_unk=True, byte_fallback=True
        ),
    }


def _merges_of_scores(words: Words) -> list[list[str]]:
    """Return every pair of tokens whose concatenation is a token. The pairs are ordered by the
    score of this token, best first, because SentencePiece merges in this order."""
    if not words.scores:
        raise InvalidInputError(
            f"{words.path}, tokenizer.ggml.scores: expected an array of numbers, found none"
        )
    ids = {
        token: i for token, i in _vocabulary(words).items()
        if words.kinds[i] not in (UNKNOWN, CONTROL)
    }  # fmt: skip
    merges: list[list[str]] = []
    for token in sorted(ids, key=lambda token: (-words.scores[ids[token]], ids[token])):
        found = []
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in ids and right in ids:
                found.append([left, right])
        if len(found) > 1:
            found.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        merges += found
    return merges
