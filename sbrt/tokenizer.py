"""tokenizer.json by the `tokenizers` library: prompts to ids, ids to text as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import check
from .check import show
from .errors import InvalidInputError
from .gguf import is_gguf
from .gguf.tokenizer import tokenizer_json
from .model_config import read_json
from .safetensors_file import parse_json

if TYPE_CHECKING:
    import tokenizers

HALF = "\ufffd"  # what decoding puts in place of bytes that are no character (yet)
MAX_TOKENIZER = 256 * 2**20  # bytes


class Tokenizer:
    """A tokenizer.json, or the tokenizer of a GGUF file.

    size: largest id + 1. tokens: id to token string.
    """

    def __init__(self, path: Path) -> None:
        import tokenizers  # here, so that `import sbrt` stays fast

        if not check.is_file(path):
            raise InvalidInputError(f"{path}: expected a tokenizer.json, found none")
        raw = tokenizer_json(path) if is_gguf(path) else check.read_bytes(path, MAX_TOKENIZER)
        _refuse_prefix(path, parse_json(path, raw))
        with _library_errors(f"{path}: expected a tokenizer.json"):
            self._library: tokenizers.Tokenizer = tokenizers.Tokenizer.from_buffer(raw)
            self._library.no_truncation()
            self._library.no_padding()
        self.path = path
        strings = self._library.get_vocab(with_added_tokens=True)
        if not strings:
            raise InvalidInputError(f"{path}: expected tokens in its vocabulary, found none")
        self.tokens: dict[int, str] = {i: token for token, i in strings.items()}
        self.size = max(self.tokens) + 1
        self._longest = max(map(len, strings))

    def holes(self, vocab: int) -> tuple[int, ...]:
        """Ids below `vocab` that no token has."""
        return tuple(i for i in range(vocab) if i not in self.tokens)

    def encode(self, text: str, most: int) -> list[int]:
        """Ids of a raw prompt, special tokens as the file's post-processor adds them.

        Text that cannot fit `most` tokens is refused before any work is done on it.
        """
        if len(text) > (most + 64) * self._longest:
            raise InvalidInputError(
                f"prompt: expected at most {most} tokens, got {len(text)} characters"
            )
        with _library_errors(f"prompt: expected text that {self.path} can encode"):
            return list(self._library.encode(text, add_special_tokens=True).ids)

    def word_ids(self, word: str) -> list[int]:
        """Ids of text as it stands inside other text: no special tokens around it."""
        with _library_errors(f"bad_words: expected text that {self.path} can encode"):
            return list(self._library.encode(word, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ids, special tokens left out unless `skip_special` is False."""
        return str(self._library.decode(list(ids), skip_special_tokens=skip_special))

    def eos(self) -> set[int]:
        """The id of the end-of-sequence token that tokenizer_config.json names, if any."""
        path = self.path.parent / "tokenizer_config.json"
        token = read_json(path).get("eos_token") if check.is_file(path) else None
        if isinstance(token, Mapping):
            token = token.get("content")
        return {
            i for i, string in self.tokens.items() if isinstance(token, str) and string == token
        }


class Detokenizer:
    """Text of tokens as they come, never half of a UTF-8 character.

    Decodes a window that begins a few tokens before the new one (a token's text can depend on its
    neighbours) and gives what is new in it, holding back a tail that is no character yet.
    """

    OVERLAP = 4  # tokens kept when the window moves; a character has at most 4 bytes
    WINDOW = 24  # a tail that is no character after so many tokens will never be one

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int], *, skip_special: bool = True
    ) -> None:
        self._decode = partial(tokenizer.decode, skip_special=skip_special)
        self._window = list(prompt_ids[-self.OVERLAP :])
        self._given = len(self._decode(self._window).rstrip(HALF))

    def push(self, token: int) -> str:
        """The text that `token` completes, often empty for a piece of a character."""
        self._window.append(token)
        text = self._decode(self._window)
        whole = text.rstrip(HALF)
        is_stuck = len(self._window) > self.WINDOW
        if is_stuck:  # only the last replacement character can still become another
            whole = text.removesuffix(HALF)
        new, self._given = whole[self._given :], max(self._given, len(whole))
        if whole == text or is_stuck:
            self._window = self._window[-self.OVERLAP :]
            rest = self._decode(self._window)
            self._given = len(rest) - (len(text) - len(whole))
        return new


def check_pair(target: Tokenizer, draft: Tokenizer) -> None:
    """Both models must have the same tokens. Raises InvalidInputError, naming the first."""
    for i in sorted(target.tokens.keys() | draft.tokens.keys()):
        ours, theirs = target.tokens.get(i), draft.tokens.get(i)
        if ours != theirs:
            raise InvalidInputError(
                f"draft: expected the target's tokens, but token {i} is {show(ours)} in the target "
                f"and {show(theirs)} in the draft"
            )


def _refuse_prefix(path: Path, raw: Mapping[str, Any]) -> None:
    """The library aborts the process over merges shorter than the prefix; no family has one."""
    model = raw.get("model")
    if isinstance(model, dict) and "merges" in model and model.get("continuing_subword_prefix"):
        prefix = model["continuing_subword_prefix"]
        raise InvalidInputError(
            f"{path}, continuing_subword_prefix: expected none beside merges, got {show(prefix)}"
        )


@contextmanager
def _library_errors(expected: str) -> Iterator[None]:
    """Turns what the library raises (Exception itself, panics from beyond it) into a sentence."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise InvalidInputError(f"{expected}, got: {' '.join(str(error).split())[:200]}") from None
