"""tokenizer.json by the `tokenizers` library: prompts to ids, ids to text as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .check import show
from .errors import InvalidInputError
from .model_config import read_json

if TYPE_CHECKING:
    import tokenizers

HALF = "\ufffd"  # what decoding puts in place of bytes that are no character (yet)


class Tokenizer:
    """A tokenizer.json. `size`: largest id + 1; `tokens`: id to token string."""

    def __init__(self, path: Path) -> None:
        import tokenizers  # here, so that `import sbrt` stays fast

        if not path.is_file():
            raise InvalidInputError(f"{path}: expected a tokenizer.json, found none")
        try:
            self._library: tokenizers.Tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises Exception itself
            raise InvalidInputError(f"{path}: expected a tokenizer.json, got {error}") from None
        self._library.no_truncation()
        self._library.no_padding()
        self.path = path
        strings = self._library.get_vocab(with_added_tokens=True)
        self.tokens: dict[int, str] = {i: token for token, i in strings.items()}
        self.size = max(self.tokens, default=-1) + 1
        self._longest = max(map(len, strings), default=1)

    def encode(self, text: str, most: int) -> list[int]:
        """Ids of a raw prompt, special tokens as the file's post-processor adds them.

        Text that cannot fit `most` tokens is refused before any work is done on it.
        """
        if len(text) > (most + 64) * self._longest:
            raise InvalidInputError(
                f"prompt: expected at most {most} tokens, got {len(text)} characters"
            )
        return list(self._library.encode(text, add_special_tokens=True).ids)

    def word_ids(self, word: str) -> list[int]:
        """Ids of text as it stands inside other text: no special tokens around it."""
        return list(self._library.encode(word, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ids, special tokens left out unless `skip_special` is False."""
        return str(self._library.decode(list(ids), skip_special_tokens=skip_special))

    def eos(self) -> set[int]:
        """The id of the end-of-sequence token that tokenizer_config.json names, if any."""
        path = self.path.parent / "tokenizer_config.json"
        token = read_json(path).get("eos_token") if path.is_file() else None
        if isinstance(token, Mapping):
            token = token.get("content")
        found = self._library.token_to_id(token) if isinstance(token, str) else None
        return set() if found is None else {found}


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
    for i in range(max(target.size, draft.size)):
        ours, theirs = target.tokens.get(i), draft.tokens.get(i)
        if ours != theirs:
            raise InvalidInputError(
                f"draft: expected the target's tokens, but token {i} is {show(ours)} in the target "
                f"and {show(theirs)} in the draft"
            )
