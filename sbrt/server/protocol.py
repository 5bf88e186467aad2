"""Checks request bodies. A body may have OpenAI's fields, vLLM's fields, and `speculative`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import check
from ..check import show
from ..errors import InvalidInputError
from ..model.generation_config import Defaults
from ..sampling import SamplingParams
from .errors import ApiError, bad_field, of_engine
from .fields import (
    SAMPLING,
    Check,
    Reader,
    anything,
    biases,
    checked,
    integer,
    mapping,
    method,
    only,
    prompts,
    text,
    token_ids,
    top_k,
)

COMPLETION_TOKENS = 16  # max_tokens of a completion request that gives none, as in OpenAI's API


@dataclass(frozen=True)
class Limits:
    """The limits of a request.

    body: maximum bytes of the body. body_seconds: time from the body's first byte to its last.
    send_seconds: time in which a client must read some of its answer; only `sbrt serve` enforces
    this limit. The other fields are maximum numbers. prompts: prompts in a request. n: answers to
    each prompt. stops: stop strings, and bad words. waiting: requests in the queue.
    """

    body: int = 16 * 2**20
    body_seconds: float = 30.0
    send_seconds: float = 60.0
    prompts: int = 256
    n: int = 64
    stops: int = 64
    waiting: int = 256


@dataclass(frozen=True)
class Ask:
    """A checked request: the part that chats and completions share.

    n: number of answers to each prompt. method: a preset; None: the engine's own method. has_usage:
    True if the last chunk of a stream has the usage. is_continuous: True if every chunk has the
    usage. has_prompt_logprobs: True if the client gave the field `prompt_logprobs`. names_by_id:
    True if log-probs name tokens by their ids.
    """

    model: str | None
    request_id: str | None
    params: SamplingParams
    n: int
    method: str | None
    is_stream: bool
    has_usage: bool
    is_continuous: bool
    has_token_ids: bool
    has_trace: bool
    adds_special: bool
    has_prompt_logprobs: bool = False
    names_by_id: bool = False


@dataclass(frozen=True)
class ChatAsk:
    """A conversation, and how to render it. template: the client's own template, or None."""

    ask: Ask
    messages: Sequence[Mapping[str, Any]]
    adds_prompt: bool
    continues: bool
    template: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CompletionAsk:
    """The prompts of a completion, each as text or token ids. echoes: True if every answer begins
    with its prompt."""

    ask: Ask
    prompts: Sequence[str | list[int]]
    echoes: bool


def _common(limits: Limits) -> dict[str, Check]:
    table: dict[str, Check] = dict.fromkeys(SAMPLING, anything)
    return table | {
        "add_special_tokens": check.flag,
        "logit_bias": biases,
        "max_tokens": anything,
        "model": text,
        "n": integer(1, limits.n),
        "prompt_logprobs": integer(-1),
        "request_id": check.text,
        "return_token_ids": check.flag,
        "return_tokens_as_token_ids": check.flag,
        "return_trace": check.flag,
        "speculative": method,
        "stream": check.flag,
        "stream_options": mapping,
        "top_k": top_k,
    }


def chat_reader(limits: Limits) -> Reader:
    """Make the reader of bodies for /v1/chat/completions."""
    return Reader(
        _common(limits)
        | {
            "add_generation_prompt": check.flag,
            "chat_template": check.text,
            "chat_template_kwargs": mapping,
            "continue_final_message": check.flag,
            "logprobs": check.flag,
            "max_completion_tokens": anything,
            "messages": messages,
            "top_logprobs": integer(-1),
        }
    )


def completion_reader(limits: Limits) -> Reader:
    """Make the reader of bodies for /v1/completions."""
    return Reader(
        _common(limits)
        | {
            "best_of": integer(1, limits.n),
            "echo": check.flag,
            "logprobs": integer(-1),
            "prompt": prompts,
            "suffix": only(""),
        }
    )


def chat_ask(given: Mapping[str, Any], defaults: Defaults, limits: Limits) -> ChatAsk:
    """Turn the checked fields of a chat into a request. Raises ApiError."""
    _expect(given, "messages")
    most = given.get("max_completion_tokens", given.get("max_tokens"))
    name = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
    continues = given.get("continue_final_message", False)
    adds_prompt = given.get("add_generation_prompt", not continues)
    if continues and adds_prompt:
        raise bad_field(
            "continue_final_message", "expected it without add_generation_prompt, got both"
        )
    base = {"max_tokens": None, **defaults.given, **_chat_logprobs(given)}
    params = _params(given, base, {name: most} if most is not None else {}, limits)
    return ChatAsk(
        ask=_ask(given, params, adds_special=False),
        messages=given["messages"],
        adds_prompt=adds_prompt,
        continues=continues,
        template=given.get("chat_template"),
        more=given.get("chat_template_kwargs", {}),
    )


def completion_ask(given: Mapping[str, Any], defaults: Defaults, limits: Limits) -> CompletionAsk:
    """Turn the checked fields of a completion into a request. Raises ApiError."""
    _expect(given, "prompt")
    if len(given["prompt"]) > limits.prompts:
        raise bad_field(
            "prompt", f"expected at most {limits.prompts} prompts, got {len(given['prompt'])}"
        )
    if (best := given.get("best_of")) is not None and best != given.get("n", 1):
        raise bad_field("best_of", f"expected as many as n, got {best}")
    top, echoes = given.get("logprobs"), given.get("echo", False)
    of_prompt = given.get("prompt_logprobs", top if echoes else None)
    base = {"max_tokens": COMPLETION_TOKENS, **defaults.given}
    base |= {"logprobs": top, "prompt_logprobs": of_prompt}
    most = {"max_tokens": given["max_tokens"]} if "max_tokens" in given else {}
    params = _params(given, base, most, limits)
    return CompletionAsk(
        ask=_ask(given, params, adds_special=True),
        prompts=given["prompt"],
        echoes=echoes,
    )


def _chat_logprobs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the engine's log-prob parameters for a chat. Raises ApiError."""
    top, wanted = given.get("top_logprobs", 0), given.get("logprobs", False)
    if top and not wanted:
        raise bad_field("top_logprobs", f"expected it with logprobs: true only, got {top}")
    of_prompt = given.get("prompt_logprobs")
    return {"logprobs": top if wanted else None, "prompt_logprobs": of_prompt}


def messages(name: str, value: Any) -> list[dict[str, Any]]:
    """Return messages in the form that templates read: null fields are left out, text parts are
    joined."""
    many = check.items(name, value, "messages")
    if not many:
        raise InvalidInputError(f"{name}: expected at least one message, got []")
    return [_message(f"{name}[{i}]", one) for i, one in enumerate(many)]


def _message(name: str, value: Any) -> dict[str, Any]:
    found = {key: part for key, part in mapping(name, value).items() if part is not None}
    check.text(f"{name}.role", found.get("role"))
    content = found.get("content")
    if isinstance(content, list):
        parts = [_part(f"{name}.content[{i}]", part) for i, part in enumerate(content)]
        found["content"] = "\n".join(parts)
    elif content is not None:
        text(f"{name}.content", content)
    return found


def _part(name: str, value: Any) -> str:
    part = mapping(name, value)
    if part.get("type") != "text":
        raise InvalidInputError(
            f"{name}.type: expected text (no other kind is built), got {show(part.get('type'))}"
        )
    return text(f"{name}.text", part.get("text"))


def _expect(given: Mapping[str, Any], name: str) -> None:
    if name not in given:
        raise bad_field(name, "expected it, got none")


def _params(
    given: Mapping[str, Any], base: Mapping[str, Any], most: Mapping[str, Any], limits: Limits
) -> SamplingParams:
    """Make the SamplingParams of a request.

    base: values of fields that are not given. most: {name: value} of max_tokens, under the name
    that the client used for it; empty if not given.
    """
    for name in ("stop", "bad_words"):
        count = len(given[name]) if isinstance(given.get(name), list) else 0
        if count > limits.stops:
            raise bad_field(name, f"expected at most {limits.stops} strings, got {count}")
    fields = {name: given[name] for name in SAMPLING if name in given}
    names = {name: name for name in SAMPLING}
    for name, value in most.items():
        names["max_tokens"] = name
        fields["max_tokens"] = value
    try:
        return SamplingParams(**{**base, **fields})
    except InvalidInputError as error:
        raise of_engine(error, names) from None


def _ask(given: Mapping[str, Any], params: SamplingParams, *, adds_special: bool) -> Ask:
    is_stream = given.get("stream", False)
    options = given.get("stream_options")
    if options and not is_stream:
        raise bad_field("stream_options", "expected it with stream only")
    flags = {
        name: checked(check.flag, f"stream_options.{name}", value)
        for name in ("include_usage", "continuous_usage_stats")
        if (value := (options or {}).get(name)) is not None
    }
    if is_stream and "prompt_logprobs" in given:
        raise bad_field("prompt_logprobs", "expected it without stream")
    is_continuous = flags.get("continuous_usage_stats", False)
    return Ask(
        model=given.get("model"),
        request_id=given.get("request_id"),
        params=params,
        n=given.get("n", 1),
        method=given.get("speculative"),
        is_stream=is_stream,
        has_usage=flags.get("include_usage", False),
        is_continuous=is_continuous,
        has_token_ids=given.get("return_token_ids", False),
        has_trace=given.get("return_trace", False),
        adds_special=given.get("add_special_tokens", adds_special),
        has_prompt_logprobs="prompt_logprobs" in given,
        names_by_id=given.get("return_tokens_as_token_ids", False),
    )


# --- /tokenize and /detokenize ---

TOKENIZE = Reader(
    {
        "add_generation_prompt": check.flag,
        "add_special_tokens": check.flag,
        "chat_template": check.text,
        "chat_template_kwargs": mapping,
        "continue_final_message": check.flag,
        "messages": messages,
        "model": text,
        "prompt": text,
        "return_token_strs": check.flag,
    }
)
DETOKENIZE = Reader({"model": text, "tokens": token_ids})


def tokenize_ask(given: Mapping[str, Any]) -> ChatAsk | CompletionAsk:
    """Return the prompt or the conversation whose ids a client wants. Raises ApiError."""
    if "messages" in given:
        if "prompt" in given:
            raise ApiError(400, "prompt: expected a prompt or messages, got both", param="prompt")
        return chat_ask(given, Defaults(), Limits())
    _expect(given, "prompt")
    return completion_ask({**given, "prompt": [given["prompt"]]}, Defaults(), Limits())
