"""Converts log-probs to the forms of the routes for chats and completions, and to vLLM's field
`prompt_logprobs`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..model.tokenizer import Detokenizer, Tokenizer
from ..outputs import Logprob

LEAST = -9999.0  # replaces -inf, which JSON cannot represent

Position = dict[int, Logprob]  # log-probs by token id; the position's own token is first


class Spelling:
    """Gives tokens the names that log-probs use. by_id: names have the form `token_id:17`, so that
    no two tokens share a name."""

    def __init__(self, tokenizer: Tokenizer | None, by_id: bool) -> None:
        self._tokenizer, self._by_id = tokenizer, by_id

    def name(self, token: int, found: Logprob) -> str:
        """Return the name of a token: its text, or `token_id:17`."""
        if self._by_id or found.decoded_token is None:
            return f"token_id:{token}"
        return found.decoded_token

    def text_of(self, token: int) -> str | None:
        """Return a token's text, as in Logprob.decoded_token."""
        return None if self._tokenizer is None else self._tokenizer.text_of(token)

    def entry(self, token: int, found: Logprob) -> dict[str, Any]:
        """Return a token's entry for a chat. bytes: the bytes of the token, even if they are only a
        part of a character."""
        data = None if self._tokenizer is None else list(self._tokenizer.bytes_of(token))
        return {"token": self.name(token, found), "logprob": value(found), "bytes": data}


class Offsets:
    """Computes where each token's text begins in the text of an answer, in characters."""

    def __init__(self, tokenizer: Tokenizer | None, before: Sequence[int], skips: bool) -> None:
        """before: the tokens that precede the answer's text. skips: True if special tokens have no
        text."""
        self._text = None
        if tokenizer is not None:
            self._text = Detokenizer(tokenizer, before, skip_special=skips)
        self._length = 0

    def of(self, tokens: Sequence[int]) -> list[int]:
        """Return where the texts of `tokens` begin in the answer, in characters. tokens: the tokens
        that follow the tokens of earlier calls."""
        found = []
        for token in tokens:
            found.append(self._length)
            self._length += 0 if self._text is None else len(self._text.push(token))
        return found


def value(found: Logprob) -> float:
    """Return the log-prob as a number that JSON can represent."""
    return max(found.logprob, LEAST)


def chat_logprobs(
    tokens: Sequence[int], positions: Sequence[Position], top: int, spelling: Spelling
) -> dict[str, Any]:
    """Return the log-probs of one choice of a chat.

    top: number of most likely tokens at each position; -1: all.
    """
    content = []
    for token, position in zip(tokens, positions, strict=True):
        best = sorted(position.items(), key=lambda item: item[1].rank or 0)
        most = len(best) if top == -1 else min(top, len(best))
        entry = spelling.entry(token, position[token])
        entry["top_logprobs"] = [spelling.entry(*item) for item in best[:most]]
        content.append(entry)
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokens: Sequence[int],
    positions: Sequence[Position | None],
    offsets: Sequence[int],
    spelling: Spelling,
) -> dict[str, Any]:
    """Return the log-probs of one choice of a completion. The first token of a prompt has none."""
    names, values, tops = [], [], []
    for token, position in zip(tokens, positions, strict=True):
        found = Logprob(0.0, None, spelling.text_of(token)) if position is None else position[token]
        names.append(spelling.name(token, found))
        values.append(None if position is None else value(found))
        tops.append(None if position is None else by_name(position, spelling))
    return {
        "tokens": names,
        "token_logprobs": values,
        "top_logprobs": tops,
        "text_offset": list(offsets),
    }


def by_name(position: Position, spelling: Spelling) -> dict[str, float]:
    """Return the log-probs at a position, by token name. If two tokens share a name, the larger
    log-prob is kept."""
    found: dict[str, float] = {}
    for token, logprob in position.items():
        name = spelling.name(token, logprob)
        found[name] = max(found.get(name, LEAST), value(logprob))
    return found


def prompt_logprobs(positions: Sequence[Position | None]) -> list[dict[str, Any] | None]:
    """Return a prompt's log-probs in the form of vLLM's server."""
    return [
        None
        if position is None
        else {
            str(token): {
                "logprob": value(found),
                "rank": found.rank,
                "decoded_token": found.decoded_token,
            }
            for token, found in position.items()
        }
        for position in positions
    ]
