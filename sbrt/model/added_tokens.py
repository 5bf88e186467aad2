"""Reads the tokens that a model folder adds to its tokenizer.json, as transformers reads them.

A fine-tuned model often keeps an older tokenizer.json and adds tokens in other files. transformers
takes these tokens from tokenizer_config.json: from the field `added_tokens_decoder`, then from the
special tokens that the file names. Without `added_tokens_decoder`, transformers also reads two
older files, special_tokens_map.json and added_tokens.json.

As in transformers, an id in these files only determines the order in which tokens are added. A
token that the vocabulary lacks gets the next free id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import check
from ..errors import InvalidInputError
from .config import read_json

if TYPE_CHECKING:
    import tokenizers

NAMED = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
EXTRA = "extra_special_tokens"  # either a list of tokens, or an object of names and tokens
ADDITIONAL = "additional_special_tokens"  # the older name of EXTRA
DECODER = "added_tokens_decoder"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def added_tokens(
    folder: Path, file: Mapping[str, Any], library: tokenizers.Tokenizer
) -> list[tokenizers.AddedToken]:
    """Return the tokens to add to `library`, in order; the list is often empty.

    library: the tokenizer that was made from `file`, a tokenizer.json. A token that it already has
    is in the list if its flags differ, because adding the token again changes its flags. Raises
    InvalidInputError, naming file and field.
    """
    config = _read(folder / "tokenizer_config.json")
    names = _Names(config)
    if DECODER in config:
        by_id = _decoder(folder / "tokenizer_config.json", config[DECODER])
    else:
        names.update(_read(folder / "special_tokens_map.json"))
        by_id = _older(folder / "added_tokens.json", names.usual(), file)
    known = {_key(token) for token in library.get_added_tokens_decoder().values()}
    found = [token for _, token in sorted(by_id.items()) if _key(token) not in known]
    have = {content for content, *_ in known} | {token.content for token in found}
    named = names.named()
    for token in found:
        token.special = token.special or token.content in {other.content for other in named}
    listed = {token.content: token for token in by_id.values()}
    new = [listed.get(t.content, t) for t in [*named, *names.others()] if t.content not in have]
    # Among tokens with the same key, the last one is kept.
    return found + list({_key(token): token for token in new}.values())


class _Names:
    """The special tokens that tokenizer_config.json gives, in three groups: tokens with a name in
    NAMED, tokens with another name, and tokens without a name."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._given = {key: config[key] for key in (EXTRA, ADDITIONAL) if key in config}
        if ADDITIONAL in config and not config.get(EXTRA):
            self._given = {EXTRA: config[ADDITIONAL]}
        self._given |= {key: value for key, value in config.items() if key.endswith("_token")}
        texts = [key for key, value in self._given.items() if isinstance(value, str)]
        self._own = {key: self._given.pop(key) for key in texts if key not in (*NAMED, EXTRA)}
        self._objects = {key for key in NAMED if isinstance(config.get(key), Mapping)}
        self._take_object()

    def update(self, older: dict[str, Any]) -> None:
        """Apply special_tokens_map.json. The file overrides the tokens with names in NAMED, but not
        the tokens with the folder's own names."""
        given = self._given
        if isinstance(older.get(EXTRA), list) and isinstance(given.get(EXTRA), list):
            older = older | {EXTRA: [*given[EXTRA], *older[EXTRA]]}
        self._given = given | older
        self._objects -= older.keys()
        self._take_object()

    def _take_object(self) -> None:
        """If EXTRA is an object of names and tokens, move its tokens to the tokens with the
        folder's own names."""
        if isinstance(self._given.get(EXTRA), Mapping):
            self._own |= self._given.pop(EXTRA)

    def named(self) -> list[tokenizers.AddedToken]:
        """Return the tokens that have a name. The names in NAMED come first."""
        others = [k for k in self._given if k.endswith("_token") and k not in NAMED]
        given = {key: self._given.get(key) for key in (*NAMED, *others)} | self._own
        return _special_tokens(given.values())

    def others(self) -> list[tokenizers.AddedToken]:
        """Tokens without a name."""
        given = self._given.get(EXTRA) if EXTRA in self._given else self._given.get(ADDITIONAL)
        return _special_tokens(given if isinstance(given, list) else ())

    def usual(self) -> set[str]:
        """Return the texts of special tokens. A token of added_tokens.json with one of these texts
        is special.

        transformers compares these texts before it reads the objects of tokenizer_config.json.
        """
        extra = self._given.get(EXTRA)
        given = [self._given.get(key) for key in NAMED if key not in self._objects]
        given += extra if isinstance(extra, list) else []
        return {token.content for token in _special_tokens(given)}


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if check.is_file(path) else {}


def _key(token: tokenizers.AddedToken) -> tuple[Any, ...]:
    """Return the content and the flags of a token. Tokens with the same content and flags count as
    one."""
    return (token.content, *(getattr(token, flag) for flag in FLAGS))


def _token(content: str, **flags: bool) -> tokenizers.AddedToken:
    import tokenizers  # imported here, so that `import sbrt` stays fast

    return tokenizers.AddedToken(content, **flags)


def _decoder(path: Path, given: Any) -> dict[int, tokenizers.AddedToken]:
    """Read the field added_tokens_decoder. Returns tokens with their flags, by id."""
    where = f"{path}, {DECODER}"
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"{where}: expected an object, got {check.show(given)}")
    found = {}
    for name, entry in given.items():
        if not (name.isascii() and name.isdigit()) or not isinstance(entry, Mapping):
            raise InvalidInputError(
                f"{where}: expected token ids to objects, got {check.show({name: entry})}"
            )
        at = f"{where}[{name}]"
        flags = {key: check.flag(f"{at}.{key}", entry[key]) for key in FLAGS if key in entry}
        found[int(name)] = _token(check.text(f"{at}.content", entry.get("content")), **flags)
    return found


def _older(
    path: Path, special: set[str], file: Mapping[str, Any]
) -> dict[int, tokenizers.AddedToken]:
    """Read added_tokens.json. Returns tokens by id. An id that tokenizer.json uses is skipped."""
    taken = {entry.get("id") for entry in file.get("added_tokens") or ()}
    found = {}
    for content, i in _read(path).items():
        check.integer(f"{path}, id of {check.show(content)}", i, 0, 2**31 - 1)
        check.text(f"{path}, token", content)
        if i not in taken:
            is_special = content in special
            found[i] = _token(content, normalized=not is_special, special=is_special)
    return found


def _special_tokens(given: Iterable[Any]) -> list[tokenizers.AddedToken]:
    found = map(_special_token, given)
    return [token for token in found if token is not None]


def _special_token(given: Any) -> tokenizers.AddedToken | None:
    """Return a special token, given as text or as an object with flags; None for anything else."""
    flags = {}
    if isinstance(given, Mapping):
        flags = {key: given[key] for key in FLAGS if isinstance(given.get(key), bool)}
        given = given.get("content")
    try:
        return _token(check.text("token", given), **(flags | {"special": True}))
    except InvalidInputError:
        return None
