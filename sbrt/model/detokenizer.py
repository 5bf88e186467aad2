"""Turns tokens into text as they arrive. The caller gets only whole characters, each once. The cost
per token is bounded.

Two kinds of tokenizers spell characters in bytes. In a byte-level tokenizer every letter of a token
means one byte. A tokenizer with byte fallback has a token for each byte, such as `<0x0A>`. A
character may begin in one token and end in a later one. So bytes are collected here until their
character is complete. The library's decoder gets only whole units: characters, or bytes that will
never be part of a character.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import tokenizers

REPLACEMENT = "\ufffd"  # the text for bytes that form no character
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# The characters into which "surrogateescape" turns stray bytes.
STRAY = re.compile("[\udc80-\udcff]")

# The strings of tokens that are decoded together: the tokens of one character, or one token.
Unit = tuple[str, ...]
BytesOf = Callable[[str], "bytes | None"]  # returns None if the string is plain text
UnitsOf = Callable[[bytes], "list[Unit]"]


class Pieces:
    """The strings of a tokenizer's tokens, and the text that they make.

    bytes_of: returns the bytes of a token's string, or None if the string is plain text. units_of:
    returns the units for bytes that are whole characters or stray bytes.
    """

    def __init__(self, library: tokenizers.Tokenizer, file: Mapping[str, Any]) -> None:
        self._string_of = library.id_to_token
        added = library.get_added_tokens_decoder().values()
        self._special = frozenset(token.content for token in added if token.special)
        decoder = library.decoder
        self._decode: Callable[[list[str]], str] = " ".join if decoder is None else decoder.decode
        types = set(_decoder_types(file.get("decoder")))
        self.bytes_of: BytesOf = _no_bytes
        self.units_of: UnitsOf = _no_units
        if "ByteLevel" in types:
            self.bytes_of, self.units_of = _bytes_of_letters, _units_of_letters
        elif "ByteFallback" in types:
            self.bytes_of, self.units_of = _byte_of_token, _units_of_byte_tokens

    def string(self, token: int, *, skip_special: bool) -> str | None:
        """Return the string of a token. Returns None if the token has no string, or if it is
        special and special tokens are skipped."""
        string = self._string_of(token)
        return None if skip_special and string in self._special else string

    def alone(self, token: int) -> bytes:
        """Return the bytes of a token in the middle of a text, after other tokens."""
        string = self.string(token, skip_special=False)
        if string is None:
            return b""
        data = self.bytes_of(string)
        if data is not None:
            return data
        before = self.text([(string,)])
        return self.text([(string,), (string,)])[len(before) :].encode("utf-8", "replace")

    def text(self, units: Sequence[Unit]) -> str:
        """Return the text that the library's decoder makes of these units."""
        return self._decode([string for unit in units for string in unit])


class HasPieces(Protocol):
    """The interface of a tokenizer that a Detokenizer needs."""

    pieces: Pieces


class Detokenizer:
    """Returns the text that each token adds to the text of all earlier tokens.

    A decoder may treat the beginning of a text, or the last token, in a special way. So new units
    are decoded together with the last earlier units that have text. The text of these earlier units
    is then cut off.
    """

    FIRST = 8  # number of tokens at the end of a prompt that are examined first
    SILENT = 32  # number of units without text that are kept as context

    def __init__(
        self, tokenizer: HasPieces, prompt_ids: Sequence[int], *, skip_special: bool = True
    ) -> None:
        self._pieces = tokenizer.pieces
        self._string = partial(self._pieces.string, skip_special=skip_special)
        self._before: list[Unit] = []  # units whose text the caller has
        self._given = 0  # number of characters in the text of _before
        self._new: list[Unit] = []  # units that follow _before
        self._held = b""  # bytes that may be the beginning of a character
        self._read_prompt(prompt_ids)

    def push(self, token: int) -> str:
        """Return the text that `token` completes. It is empty if the token ends inside a
        character."""
        string = self._string(token)
        if string is None:
            return ""
        self._take(string)
        return self._give()

    def flush(self) -> str:
        """Return the text of the held bytes. No more tokens follow, so these bytes form no
        character."""
        self._new += self._lost()
        return self._give()

    def _read_prompt(self, ids: Sequence[int]) -> None:
        """Keep the end of the prompt as context for the first new token: the last units with text,
        and the held bytes."""
        strings = self._strings_backwards(ids)
        tail: list[str] = []
        want, is_all = self.FIRST, False
        while not (self._given or is_all):
            for string in strings:
                tail.append(string)
                if len(tail) == want:
                    break
            is_all = len(tail) < want
            want *= 2
            self._held, self._new = b"", []
            for string in reversed(tail):
                self._take(string)
            self._keep_context(self._new)
        self._new = []

    def _strings_backwards(self, ids: Sequence[int]) -> Iterator[str]:
        for token in reversed(ids):
            if (string := self._string(token)) is not None:
                yield string

    def _take(self, string: str) -> None:
        """Append the units that the token with this string completes."""
        data = self._pieces.bytes_of(string)
        if data is None:
            self._new += [*self._lost(), (string,)]
            return
        data = self._held + data
        _, used = codecs.utf_8_decode(data, "surrogateescape", False)
        self._held = data[used:]
        self._new += self._pieces.units_of(data[:used])

    def _lost(self) -> list[Unit]:
        """Return units for the held bytes, because they can no longer become a character.
        Afterwards no bytes are held."""
        held, self._held = self._held, b""
        return self._pieces.units_of(held)

    def _give(self) -> str:
        """Return the text that the new units add to the answer."""
        if not self._new:
            return ""
        units = self._before + self._new
        text = self._pieces.text(units)
        new = text[self._given :]
        if new:
            self._keep_context(units)
            self._new = []
        elif len(self._new) > self.SILENT:
            self._new = []
        return new

    def _keep_context(self, units: list[Unit]) -> None:
        """Keep as context the last few units that have text, or all units if none has text yet."""
        count = 1
        while count < 2 * len(units):
            last = units[-count:]
            if text := self._pieces.text(last):
                self._before, self._given = last, len(text)
                return
            count *= 2
        self._before, self._given = units, 0


def _decoder_types(decoder: Any) -> Iterator[str]:
    """Yield the types of a tokenizer.json's decoder and of its inner decoders."""
    if isinstance(decoder, Mapping):
        yield str(decoder.get("type"))
        for inner in decoder.get("decoders") or ():
            yield from _decoder_types(inner)


def _letters() -> dict[int, str]:
    """Return the letter that stands for each byte in byte-level tokens. A visible character stands
    for itself; other bytes have letters from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(0x100) if b not in visible]
    return {b: chr(b) for b in visible} | {b: chr(0x100 + i) for i, b in enumerate(hidden)}


_LETTER_OF = _letters()
_BYTE_OF = {letter: byte for byte, letter in _LETTER_OF.items()}


def _bytes_of_letters(string: str) -> bytes | None:
    try:
        return bytes(_BYTE_OF[letter] for letter in string)
    except KeyError:  # an added token with other letters is plain text
        return None


def _units_of_letters(data: bytes) -> list[Unit]:
    return [("".join(_LETTER_OF[byte] for byte in data),)] if data else []


def _byte_of_token(string: str) -> bytes | None:
    found = BYTE_TOKEN.fullmatch(string)
    return bytes.fromhex(found[1]) if found else None


def _units_of_byte_tokens(data: bytes) -> list[Unit]:
    """Return one unit for each character. Each stray byte is replaced by the bytes of the
    replacement character, because otherwise the library would drop all byte tokens next to it."""
    text = STRAY.sub(REPLACEMENT, data.decode("utf-8", "surrogateescape"))
    return [tuple(f"<0x{byte:02X}>" for byte in letter.encode()) for letter in text]


def _no_bytes(string: str) -> bytes | None:
    return None


def _no_units(data: bytes) -> list[Unit]:
    return []
