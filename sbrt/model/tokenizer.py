"""Reads a tokenizer.json with the `tokenizers` library. The Tokenizer turns prompts into ids, and
ids into text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import check
from ..check import show
from ..errors import InvalidInputError
from .added_tokens import added_tokens
from .detokenizer import Detokenizer, Pieces
from .gguf import is_gguf
from .safetensors_file import parse_json

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Detokenizer", "Tokenizer", "check_pair"]

MAX_TOKENIZER = 256 * 2**20  # bytes


class Tokenizer:
    """The tokenizer in a tokenizer.json, with the tokens that the files next to it add
    (added_tokens.py).

    A Tokenizer may also come from a GGUF file, which needs no other files.
    size: largest id + 1. tokens: the string of each token, by id.
    """

    def __init__(self, path: Path) -> None:
        import tokenizers  # imported here, so that `import sbrt` stays fast

        if not check.is_file(path):
            raise InvalidInputError(f"{path}: expected a tokenizer.json, found none")
        raw = _gguf_json(path) if is_gguf(path) else check.read_bytes(path, MAX_TOKENIZER)
        file = parse_json(path, raw)
        _refuse_prefix(path, file)
        with _library_errors(f"{path}: expected a tokenizer.json"):
            self._library: tokenizers.Tokenizer = tokenizers.Tokenizer.from_buffer(raw)
            self._library.no_truncation()
            self._library.no_padding()
        if not is_gguf(path):
            _add(self._library, added_tokens(path.parent, file, self._library))
        self.path = path
        strings = self._library.get_vocab(with_added_tokens=True)
        if not strings:
            raise InvalidInputError(f"{path}: expected tokens in its vocabulary, found none")
        self.tokens: dict[int, str] = {i: token for token, i in strings.items()}
        self.size = max(self.tokens) + 1
        self._longest = max(map(len, strings))
        self.pieces = Pieces(self._library, file)
        self._texts: dict[int, str] = {}  # earlier results of text_of

    def holes(self, vocab: int) -> tuple[int, ...]:
        """Return the ids below `vocab` that belong to no token."""
        return tuple(i for i in range(vocab) if i not in self.tokens)

    def encode(self, text: str, most: int, *, adds_special: bool = True) -> list[int]:
        """Return the ids of a raw prompt, with the special tokens that the file's post-processor
        adds.

        adds_special: False for text that already has its special tokens, such as a rendered
        conversation. Text that cannot fit `most` tokens is refused before it is tokenised.
        """
        if len(text) > (most + 64) * self._longest:
            raise InvalidInputError(
                f"prompt: expected at most {most} tokens, got {len(text)} characters"
            )
        with _library_errors(f"prompt: expected text that {self.path} can encode"):
            return list(self._library.encode(text, add_special_tokens=adds_special).ids)

    def word_ids(self, word: str) -> list[int]:
        """Return the token ids of a text that stands in the middle of other text. No special tokens
        are added around it."""
        with _library_errors(f"bad_words: expected text that {self.path} can encode"):
            return list(self._library.encode(word, add_special_tokens=False).ids)

    def text_of(self, token: int) -> str:
        """Return the text of one token in the middle of other text; "" for an id that no token has.

        Bytes that are no whole character become U+FFFD.
        """
        if (found := self._texts.get(token)) is None:
            found = self._texts[token] = self.pieces.alone(token).decode("utf-8", "replace")
        return found

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of one token in the middle of other text. The bytes may be a part of a
        character."""
        return self.pieces.alone(token)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of ids, without special tokens unless `skip_special` is False."""
        return str(self._library.decode(list(ids), skip_special_tokens=skip_special))


def check_pair(target: Tokenizer, draft: Tokenizer) -> None:
    """Check that every token of the draft is also the target's token with the same id.

    The draft may lack some of the target's tokens. Raises InvalidInputError, naming the first token
    that differs.
    """
    for i in sorted(draft.tokens):
        ours, theirs = target.tokens.get(i), draft.tokens.get(i)
        if ours != theirs:
            raise InvalidInputError(
                f"draft: expected the target's tokens, but token {i} is {show(ours)} in the target "
                f"and {show(theirs)} in the draft"
            )


def _add(library: tokenizers.Tokenizer, tokens: Sequence[tokenizers.AddedToken]) -> None:
    if tokens:
        with _library_errors("added tokens: expected ones that the tokenizer can have"):
            library.add_tokens(tokens)


def _gguf_json(path: Path) -> bytes:
    from .gguf.tokenizer import tokenizer_json  # imported here, so that `import sbrt` stays fast

    return tokenizer_json(path)


def _refuse_prefix(path: Path, raw: Mapping[str, Any]) -> None:
    """Refuse the field continuing_subword_prefix: the library aborts the process if a merge is
    shorter than the prefix."""
    model = raw.get("model")
    if isinstance(model, dict) and "merges" in model and model.get("continuing_subword_prefix"):
        prefix = model["continuing_subword_prefix"]
        raise InvalidInputError(
            f"{path}, continuing_subword_prefix: expected none next to merges, got {show(prefix)}"
        )


@contextmanager
def _library_errors(expected: str) -> Iterator[None]:
    """Turn errors of the library, and its panics, into InvalidInputError with one sentence."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise InvalidInputError(f"{expected}, got: {' '.join(str(error).split())[:200]}") from None
