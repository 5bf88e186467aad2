"""Renders chat templates. A chat template turns a conversation into the form of text that a model
was trained on.

A template comes with the model, so it is untrusted code. It runs in jinja2's sandbox, where it
cannot change objects or read internal attributes of Python. The number of its steps is limited. A
template may call the same helper functions as in transformers, so the text is the same as there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from .. import check
from ..check import show
from ..errors import InvalidInputError
from ..model.added_tokens import DECODER, NAMED
from ..model.config import read_json
from ..model.gguf import is_gguf
from .sandbox import Environment

LONGEST = 2**20  # characters of a template
RESERVED = ("messages", "tools", "documents", "add_generation_prompt")
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of the field with the reasoning
MARK = "\ue000sbrt ends here\ue001"  # appended to the last message: marks where its text ends
SPACE = " "  # appended after MARK; a template that trims messages removes it


@dataclass(frozen=True)
class Conversation:
    """Messages to render, without nulls and with their text parts joined.

    adds_prompt: True to add the beginning of an answer. continues: True to leave the last message
    open.
    more: further variables for the template.
    """

    messages: Sequence[Mapping[str, Any]]
    adds_prompt: bool = True
    continues: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatTemplate:
    """A model's template and the special tokens that the template may name.

    text: the template; None if the model has none. where: the origin of the template, for error
    messages.
    """

    text: str | None = None
    where: str = "the model"
    tokens: Mapping[str, str] = field(default_factory=dict)

    def having(self, text: str, where: str) -> ChatTemplate:
        """Return a ChatTemplate with the template `text` and the same special tokens."""
        return ChatTemplate(text, where, self.tokens)

    def render(self, chat: Conversation) -> str:
        """Return the text of a conversation. Raises InvalidInputError."""
        if self.text is None:
            raise InvalidInputError(
                f"chat_template: expected {self.where} to have one, it has none; use "
                "/v1/completions, or give the server one by --chat-template"
            )
        if wrong := [name for name in chat.more if name in RESERVED]:
            raise InvalidInputError(
                f"chat_template_kwargs: expected further variables, got {wrong[0]}"
            )
        messages = [_aliased(message) for message in chat.messages]
        if chat.continues:
            messages = _marked(messages, self.text)
        given = {**self.tokens, "tools": None, "documents": None, **chat.more}
        given |= {"messages": messages, "add_generation_prompt": chat.adds_prompt}
        text = _run(self.text, given)
        return _cut(text, str(chat.messages[-1]["content"])) if chat.continues else text


def read_template(tokenizer: Path) -> ChatTemplate:
    """Read the template next to a tokenizer.json, or in a GGUF file.

    chat_template.jinja is preferred to tokenizer_config.json. Raises InvalidInputError.
    """
    if is_gguf(tokenizer):
        from ..model.gguf.header import open_gguf
        from ..model.gguf.tokenizer import chat_template, special_tokens

        file = open_gguf(tokenizer)
        return ChatTemplate(chat_template(file), str(tokenizer), special_tokens(file))
    folder = tokenizer.parent
    config = _json(folder / "tokenizer_config.json")
    named = config if DECODER in config else config | _json(folder / "special_tokens_map.json")
    tokens = {name: token for name in NAMED if (token := _content(named.get(name))) is not None}
    path = folder / "chat_template.jinja"
    if check.is_file(path):
        return ChatTemplate(read_file(path), str(path), tokens)
    where = f"{folder / 'tokenizer_config.json'}"
    return ChatTemplate(_listed(where, config.get("chat_template")), where, tokens)


def read_file(path: Path) -> str:
    """Read the text of a template's file. Raises InvalidInputError."""
    raw = check.read_bytes(path, LONGEST)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{path}: expected UTF-8, got byte {raw[error.start]:#x} at {error.start}"
        ) from None


def _json(path: Path) -> Mapping[str, Any]:
    return read_json(path) if check.is_file(path) else {}


def _content(token: Any) -> str | None:
    """Return a special token's text. token: the text, or an object whose field `content` is the
    text."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else None


def _listed(where: str, given: Any) -> str | None:
    """Return the template from a field. If the field lists several named templates, return the one
    called default."""
    if given is None or isinstance(given, str):
        return given
    named = {
        entry.get("name"): entry.get("template")
        for entry in (given if isinstance(given, list) else ())
        if isinstance(entry, Mapping)
    }
    found = named.get("default")
    if not isinstance(found, str):
        raise InvalidInputError(
            f"{where}, chat_template: expected a template, or one named default, got {show(given)}"
        )
    return found


def _aliased(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message that has its reasoning under several field names, because templates read
    different ones."""
    found = dict(message)
    given = next((found[name] for name in REASONING if found.get(name) is not None), None)
    if given is not None:
        found = {"thinking": given, **found, "reasoning_content": given}
    return found


def _marked(messages: list[dict[str, Any]], template: str) -> list[dict[str, Any]]:
    *before, last = messages
    if not isinstance(last.get("content"), str) or "content" not in template:
        raise InvalidInputError("continue_final_message: expected content in the last message")
    return [*before, last | {"content": last["content"] + MARK + SPACE}]


def _cut(text: str, content: str) -> str:
    """Return the text before MARK. If the template trims messages, trailing space is removed,
    too."""
    at = text.rfind(MARK)
    if at < 0 or content.strip() not in text:
        raise InvalidInputError(
            "continue_final_message: expected a template that keeps the last message, got another"
        )
    is_trimmed = not text.startswith(MARK + SPACE, at)
    return text[:at].rstrip() if is_trimmed else text[:at]


def _run(template: str, given: Mapping[str, Any]) -> str:
    """Render a template. Raises InvalidInputError with one sentence for any error of the
    template."""
    try:
        return _compiled(template).text(given)
    except jinja2.TemplateError as error:
        why = str(error)
    except (MemoryError, RecursionError) as error:
        why = type(error).__name__
    except Exception as error:  # an expression of a template may raise any error
        why = f"{type(error).__name__}: {error}"
    raise InvalidInputError(
        f"chat_template: expected one that takes these messages, got: {' '.join(why.split())[:300]}"
    ) from None


@lru_cache(maxsize=64)
def _compiled(template: str) -> _Program:
    if len(template) > LONGEST:
        raise jinja2.TemplateError(f"expected at most {LONGEST} characters")
    environment = Environment()
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "dict": _dict,
        "raise_exception": _raise,
        "strftime_now": _strftime_now,
    }
    return _Program(environment, environment.from_string(template))


@dataclass(frozen=True)
class _Program:
    environment: Environment
    template: jinja2.Template

    def text(self, given: Mapping[str, Any]) -> str:
        return self.environment.collected(self.template.generate(**given))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _dict(*given: Any, **fields: Any) -> dict[Any, Any]:
    return dict(*given, **fields)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
