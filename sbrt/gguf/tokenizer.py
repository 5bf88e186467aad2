"""The tokenizer that a GGUF file's metadata describes, as the text of a tokenizer.json.

`tokenizer.ggml.model` gpt2 is byte-level BPE; its `pre` names how text is split before merging.
llama is what SentencePiece calls BPE: scores instead of merges, bytes where no token fits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import check
from ..check import show
from ..errors import InvalidInputError
from .header import open_gguf

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # of tokenizer.ggml.token_type
MAX_TOKENS = 2**24
SPACE = "\u2581"  # stands for a space in tokens of SentencePiece
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_GPT2 = rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"


def _llama3(digits: str) -> str:
    """Of Llama 3 and its kin, which differ in how many digits stay together."""
    return (
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
# Letters of scripts with upper and lower case, as DeepSeek's own tokenizer.json lists them.
_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd"
    "\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec"
    "\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b"
    "\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787"
    "\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_MARKS = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
_DEEPSEEK_LLM = (
    r"[\r\n]", rf"\s?[{_CASED}]+", rf"\s?[{_MARKS}]+", r"\s+$", _CJK, r"\p{N}+",
)  # fmt: skip
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")
_DEEPSEEK_3 = (
    r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)  # fmt: skip

# Patterns that split a text, each what the ones before it have left; by tokenizer.ggml.pre.
SPLITS: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "llama-bpe": (_llama3(r"\p{N}{1,3}"),),
    "qwen2": (_llama3(r"\p{N}"),),
    "deepseek-llm": _DEEPSEEK_LLM,
    "deepseek-coder": _DEEPSEEK_CODER,
    "deepseek-v3": _DEEPSEEK_3,
}
ALIKE = {
    "llama3": "llama-bpe", "llama-v3": "llama-bpe", "falcon3": "llama-bpe", "dbrx": "llama-bpe",
    "smaug-bpe": "llama-bpe", "deepseek-r1-qwen": "qwen2", "phi-2": "gpt-2", "olmo": "gpt-2",
    "starcoder": "smollm", "refact": "smollm", "command-r": "smollm",
}  # fmt: skip
BEGIN_BY_DEFAULT = {"llama-bpe"}  # add the begin token where the file does not say


@dataclass(frozen=True)
class Words:
    """What a file says of its tokenizer, checked.

    model: gpt2 or llama. pre: a key of SPLITS. kinds: type of each token. begin, end: ids to put
    around a prompt, None: none.
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
    """A tokenizer.json that gives the ids of the file's tokenizer. Raises InvalidInputError."""
    words = read_words(path)
    build = _byte_level if words.model == "gpt2" else _sentencepiece
    return json.dumps(build(words) | _common(words)).encode()


def end_ids(path: Path) -> frozenset[int]:
    """Ids that end an answer: of a sequence, a turn or a message. Raises InvalidInputError."""
    return _end_ids(path, open_gguf(path).metadata)


def chat_template(path: Path) -> str | None:
    """The Jinja template of a conversation, if the file has one. Raises InvalidInputError."""
    found = open_gguf(path).metadata.get("tokenizer.chat_template")
    return None if found is None else check.text(f"{path}, tokenizer.chat_template", found)


def read_words(path: Path) -> Words:
    """The tokenizer's part of the metadata. Raises InvalidInputError, naming the entry."""
    fields = _Fields(path, open_gguf(path).metadata)
    model = check.one_of(fields.where("model"), fields.get("model"), ("gpt2", "llama"))
    tokens = fields.texts("tokens")
    if not 0 < len(tokens) <= MAX_TOKENS:
        raise InvalidInputError(
            f"{fields.where('tokens')}: expected 1 to {MAX_TOKENS} tokens, got {len(tokens)}"
        )
    count = len(tokens)
    pre = _pre(fields) if model == "gpt2" else ""
    adds_begin = fields.flag("add_bos_token", model == "llama" or pre in BEGIN_BY_DEFAULT)
    adds_end = fields.flag("add_eos_token", False)
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
        begin=fields.token("bos_token_id", count) if adds_begin else None,
        end=fields.token("eos_token_id", count) if adds_end else None,
        space_prefix=fields.flag("add_space_prefix", model == "llama"),
    )


@dataclass(frozen=True)
class _Fields:
    """Entries named tokenizer.ggml.*, each checked as it is read."""

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
        """`count` numbers of one of numpy's kinds; [] where there is no such entry."""
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
    """A key of SPLITS; a file without the entry is older than it."""
    given = fields.get("pre")
    given = "default" if given is None else given
    name = ALIKE.get(given, given) if isinstance(given, str) else given
    if not isinstance(name, str) or name not in SPLITS:
        known = ", ".join([*SPLITS, *ALIKE])
        raise InvalidInputError(
            f"{fields.where('pre')}: expected one of {known}, got {show(given)}"
        )
    return name


def _end_ids(path: Path, metadata: Any) -> frozenset[int]:
    fields = _Fields(path, metadata)
    count = len(fields.texts("tokens")) if fields.get("tokens") is not None else 0
    found = (fields.token(key, count) for key in END_KEYS)
    return frozenset(i for i in found if i is not None)


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
    """Tokens found in a text before it is split; answers leave out control tokens."""
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
    """Puts the begin and end tokens around a prompt."""
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
    """Token to id. A token that stands twice would leave an id without one."""
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
        for p in SPLITS[words.pre]
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
            ignore_merges=words.pre == "llama-bpe",
        ),
    }  # fmt: skip


def _halves(words: Words, merge: str) -> list[str]:
    """The two tokens of a merge, `left right`: the left one may begin with a space."""
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
    """Every pair of tokens that makes a token, best token first, as SentencePiece merges them."""
    if not words.scores:
        raise InvalidInputError(
            f"{words.path}, tokenizer.ggml.scores: expected an array of numbers, found none"
        )
    known = {
        token for token, kind in zip(words.tokens, words.kinds, strict=True)
        if kind not in (UNKNOWN, CONTROL)
    }  # fmt: skip
    ids = _vocabulary(words)
    order = sorted(known, key=lambda token: (-words.scores[ids[token]], ids[token]))
    merges: list[list[str]] = []
    for token in order:
        pairs = ((token[:i], token[i:]) for i in range(1, len(token)))
        found = [pair for pair in pairs if pair[0] in known and pair[1] in known]
        found.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        merges.extend(map(list, found))
    return merges
