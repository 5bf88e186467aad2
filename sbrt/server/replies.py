"""Makes the response bodies of chats and completions, whole or as chunks of a stream."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..errors import EngineError
from ..model.tokenizer import Tokenizer
from ..outputs import CompletionOutput, Logprob, RequestOutput
from .answers import Choice, metrics, timings, usage
from .errors import ApiError, of_engine
from .history import trace_of
from .logprobs import Offsets, Spelling, chat_logprobs, completion_logprobs, prompt_logprobs
from .protocol import Ask
from .service import FIELDS, Service

LOG = logging.getLogger("sbrt.server")
PromptLogprobs = Sequence[dict[int, Logprob] | None] | None
DONE = b"data: [DONE]\n\n"
WRONG = "server: expected an answer, got a defect of the server; its log says more"


def as_json(value: Any) -> bytes:
    """Encode a value as JSON. Text that UTF-8 cannot encode becomes a question mark."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def event(value: Any) -> bytes:
    """Encode a value as one event of a stream."""
    return b"data: " + as_json(value) + b"\n\n"


@dataclass(frozen=True)
class Reply:
    """The answer to a request. Chats and completions differ only in the form of their choices.

    tokenizer: gives the token texts in traces and log-probs.
    """

    id: str
    model: str
    ask: Ask
    choices: Sequence[Choice]
    tokenizer: Tokenizer | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    kind = ""  # value of the field `object` in a whole answer
    chunk_kind = ""

    def body(self) -> dict[str, Any]:
        """Return the whole answer."""
        found = self._envelope(self.kind)
        found["choices"] = [self.whole(choice) | self._end(choice) for choice in self.choices]
        return found | self._figures(usage(self.choices, self.ask.n))

    def opening(self, choice: Choice) -> list[dict[str, Any]]:
        """Return the chunks that come before the first token."""
        return []

    def part(self, choice: Choice, output: RequestOutput) -> dict[str, Any] | None:
        """Return the chunk for one output of the engine; None if the chunk would be empty."""
        [answer] = output.outputs
        begins = output.prompt_logprobs is not None and self.delays_opening
        tells_tokens = self.ask.has_token_ids or self.has_logprobs
        if not (answer.text or begins or (tells_tokens and answer.token_ids)):
            return None
        text = (choice.prompt_text or "") + answer.text if begins else answer.text
        more: dict[str, Any] = {"token_ids": answer.token_ids} if self.ask.has_token_ids else {}
        if begins and self.ask.has_token_ids:
            more["prompt_token_ids"] = choice.prompt_ids
        if self.has_logprobs:
            more["logprobs"] = self.logprobs(choice, answer, output.prompt_logprobs)
        return self._chunk({"index": choice.index, **self.delta(text), **_OPEN, **more})

    def closing(self, choice: Choice) -> dict[str, Any]:
        """Return the chunk with a choice's finish_reason. In the last choice that ends, this chunk
        also has `timings`."""
        end = {**_OPEN, **self._end(choice)}
        found = self._chunk({"index": choice.index, **self.nothing(), **end})
        if not self.ask.has_usage and all(c.final is not None for c in self.choices):
            found["timings"] = timings(self.choices, self.ask.n)
        return found

    def last(self) -> dict[str, Any]:
        """Return the chunk with the usage."""
        found = self._envelope(self.chunk_kind)
        return found | {"choices": []} | self._figures(usage(self.choices, self.ask.n))

    def whole(self, choice: Choice) -> dict[str, Any]:
        """Return one choice, for the body of a whole answer."""
        raise NotImplementedError

    @property
    def has_logprobs(self) -> bool:
        """True if the client wants the log-probs of the answer."""
        return self.ask.params.logprobs is not None

    @property
    def delays_opening(self) -> bool:
        """True if the opening chunk waits for the prompt's log-probs, which come with the first
        token."""
        return False

    @cached_property
    def spelling(self) -> Spelling:
        """The names that tokens have in log-probs."""
        return Spelling(self.tokenizer, self.ask.names_by_id)

    def logprobs(
        self, choice: Choice, answer: CompletionOutput, of_prompt: PromptLogprobs
    ) -> dict[str, Any]:
        """Return the object `logprobs` for an output of the engine.

        of_prompt: log-probs of the prompt, if the text begins with the prompt.
        """
        raise NotImplementedError

    def delta(self, text: str) -> dict[str, Any]:
        """Return the fields of a chunk that hold new text."""
        raise NotImplementedError

    def nothing(self) -> dict[str, Any]:
        """Return the fields of a chunk without new text."""
        return self.delta("")

    def _told(self, choice: Choice) -> dict[str, Any] | None:
        """Return the log-probs of a whole answer; None if the client wants none."""
        if not self.has_logprobs:
            return None
        assert choice.final is not None
        return self.logprobs(choice, choice.final.outputs[0], choice.final.prompt_logprobs)

    def _of_prompt(self, choice: Choice) -> list[dict[str, Any] | None]:
        """Return the field `prompt_logprobs` of a whole answer."""
        assert choice.final is not None
        return prompt_logprobs(choice.final.prompt_logprobs or [])

    def _end(self, choice: Choice) -> dict[str, Any]:
        skips = self.ask.params.skip_special_tokens
        trace = trace_of(choice, self.tokenizer, skips)
        return {
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            **({} if trace is None else {"trace": trace}),
        }

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        found = self._envelope(self.chunk_kind) | {"choices": [choice]}
        if self.ask.is_continuous:
            found["usage"] = usage(self.choices, self.ask.n)
        elif self.ask.has_usage:
            found["usage"] = None
        return found

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _figures(self, used: dict[str, Any]) -> dict[str, Any]:
        return {
            "usage": used,
            "metrics": metrics(self.choices),
            "timings": timings(self.choices, self.ask.n),
        }


_OPEN = {"logprobs": None, "finish_reason": None}


class ChatReply(Reply):
    """The answer of /v1/chat/completions."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def opening(self, choice: Choice) -> list[dict[str, Any]]:
        """Return the opening chunk of a choice. No other chunk names the role of the message."""
        delta = {"delta": {"role": "assistant", "content": ""}}
        found = self._chunk({"index": choice.index, **delta, **_OPEN})
        if self.ask.has_token_ids:
            found["prompt_token_ids"] = choice.prompt_ids
        return [found]

    def body(self) -> dict[str, Any]:
        """Return the whole answer. All choices share one prompt."""
        found = super().body()
        first = self.choices[0]
        if self.ask.has_token_ids:
            found["prompt_token_ids"] = first.prompt_ids
        if self.ask.has_prompt_logprobs:
            found["prompt_logprobs"] = self._of_prompt(first)
        return found

    def whole(self, choice: Choice) -> dict[str, Any]:
        """Return one choice with its message, for the body of a whole answer."""
        message = {"role": "assistant", "content": "".join(choice.text), "refusal": None}
        more = {"token_ids": choice.ids} if self.ask.has_token_ids else {}
        return {"index": choice.index, "message": message, "logprobs": self._told(choice), **more}

    def logprobs(
        self, choice: Choice, answer: CompletionOutput, of_prompt: PromptLogprobs
    ) -> dict[str, Any]:
        """Return the object `logprobs`, with an entry for each token."""
        top = self.ask.params.logprobs or 0
        return chat_logprobs(answer.token_ids, answer.logprobs or (), top, self.spelling)

    def delta(self, text: str) -> dict[str, Any]:
        """Return the fields of a chunk that hold new content of the message."""
        return {"delta": {"content": text}}

    def nothing(self) -> dict[str, Any]:
        """Return an empty delta."""
        return {"delta": {}}


class CompletionReply(Reply):
    """The answer of the route /v1/completions. With echo, the text of a choice begins with its
    prompt."""

    kind = chunk_kind = "text_completion"

    def opening(self, choice: Choice) -> list[dict[str, Any]]:
        """Return a chunk with the prompt, if the client asked for echo."""
        if self.delays_opening or not (choice.prompt_text or self.ask.has_token_ids):
            return []
        more = {"prompt_token_ids": choice.prompt_ids} if self.ask.has_token_ids else {}
        text = self.delta(choice.prompt_text or "")
        return [self._chunk({"index": choice.index, **text, **_OPEN, **more})]

    def whole(self, choice: Choice) -> dict[str, Any]:
        """Return one choice with its text, for the body of a whole answer."""
        text = (choice.prompt_text or "") + "".join(choice.text)
        more: dict[str, Any] = {"logprobs": self._told(choice)}
        if self.ask.has_token_ids:
            more |= {"prompt_token_ids": choice.prompt_ids, "token_ids": choice.ids}
        if self.ask.has_prompt_logprobs:
            more["prompt_logprobs"] = self._of_prompt(choice)
        return {"index": choice.index, "text": text, **more}

    @property
    def delays_opening(self) -> bool:
        """True if the client wants echo and log-probs."""
        return self.has_logprobs and self.choices[0].prompt_text is not None

    def logprobs(
        self, choice: Choice, answer: CompletionOutput, of_prompt: PromptLogprobs
    ) -> dict[str, Any]:
        """Return the object `logprobs`, whose lists have an item for each token. With echo, the
        prompt's tokens come first."""
        tokens, positions = answer.token_ids, list[Any](answer.logprobs or ())
        if self.delays_opening and of_prompt is not None:
            tokens, positions = choice.prompt_ids + tokens, [*of_prompt, *positions]
        if choice.index not in self._offsets:
            before = () if self.delays_opening else choice.prompt_ids
            skips = self.ask.params.skip_special_tokens
            self._offsets[choice.index] = Offsets(self.tokenizer, before, skips)
        offsets = self._offsets[choice.index].of(tokens)
        return completion_logprobs(tokens, positions, offsets, self.spelling)

    @cached_property
    def _offsets(self) -> dict[int, Offsets]:
        """{index of a choice: the object that computes the text offsets of this choice}."""
        return {}

    def delta(self, text: str) -> dict[str, Any]:
        """Return the fields of a chunk that hold new text."""
        return {"text": text}


async def whole(service: Service, reply: Reply) -> dict[str, Any]:
    """Wait for every choice; returns the body of the answer. Raises ApiError if a choice has
    failed."""
    async with aclosing(service.outputs(reply.choices)) as outputs:
        async for choice, output in outputs:
            if output.finished:
                check_end(choice)
    return reply.body()


async def events(service: Service, reply: Reply) -> AsyncGenerator[bytes, None]:
    """Yield the events of a stream. An error in the stream becomes an event; [DONE] is always the
    last event."""
    try:
        async with aclosing(_chunks(service, reply)) as chunks:
            async for chunk in chunks:
                yield event(chunk)
    except ApiError as error:
        yield event(error.body())
    except EngineError as error:
        yield event(of_engine(error, FIELDS).body())
    except Exception:
        LOG.exception("an answer has failed")
        yield event(ApiError(500, WRONG).body())
    yield DONE


async def _chunks(service: Service, reply: Reply) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the chunks of each choice, from the opening to the closing, then the chunk with the
    usage."""
    for choice in reply.choices:
        for chunk in reply.opening(choice):
            yield chunk
    async with aclosing(service.outputs(reply.choices)) as outputs:
        async for choice, output in outputs:
            if (part := reply.part(choice, output)) is not None:
                yield part
            if output.finished:
                check_end(choice)
                yield reply.closing(choice)
    if reply.ask.has_usage:
        yield reply.last()


def check_end(choice: Choice) -> None:
    """Raise ApiError for an answer that ended before it was complete."""
    if choice.finish_reason == "error":
        why = str(choice.stop_reason)
        raise ApiError(400 if "sampling parameters" in why else 500, why)
    if choice.finish_reason == "abort":
        raise ApiError(503, "server: expected one that goes on, this one is shutting down")
