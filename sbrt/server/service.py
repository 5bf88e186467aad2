"""The state that all requests of a server share: engine, queue, template, metrics."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from ..async_engine import SHORT, AsyncEngine, Order, RequestOutputKind
from ..check import show
from ..errors import EngineError, InvalidInputError
from ..model.tokenizer import Tokenizer
from ..outputs import RequestOutput
from .answers import Choice
from .errors import ApiError, bad_field, of_engine
from .metrics import Metrics
from .protocol import Ask, ChatAsk, Limits, chat_reader, completion_reader
from .templates import ChatTemplate, Conversation, read_file, read_template

LOG = logging.getLogger("sbrt.server")

# {the engine's name of a field: its name in requests}. The fields of SamplingParams are checked
# earlier.
FIELDS = {
    "prompt": "prompt", "method": "speculative", "acceptance": "speculative", "stop": "stop",
    "gamma": "speculative", "k_max": "speculative", "stop_token_ids": "stop_token_ids",
    "bad_words": "bad_words", "allowed_token_ids": "allowed_token_ids", "logit_bias": "logit_bias",
    "chat_template": "messages", "chat_template_kwargs": "chat_template_kwargs",
    "continue_final_message": "continue_final_message", "logprobs": "logprobs",
    "prompt_logprobs": "prompt_logprobs",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The settings that a server starts with.

    names: names of the model that clients may use; answers give the model the first of these names.
    root: the model's path or hub name. template: a file whose template replaces the model's
    template. trusts_templates: True if requests may contain templates.
    """

    names: Sequence[str] = ("demo",)
    root: str = "demo"
    api_key: str | None = None
    limits: Limits = field(default_factory=Limits)
    template: Path | None = None
    trusts_templates: bool = False


class Service:
    """Begins and ends the requests of a server. Until `open` is called, the server is loading."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.created = int(time.time())
        self.metrics = Metrics(settings.names[0])
        self.chat_reader = chat_reader(settings.limits)
        self.completion_reader = completion_reader(settings.limits)
        self.is_draining = False  # True: new requests are refused, running requests may end
        self._engine: AsyncEngine | None = None
        self._template = ChatTemplate()
        self._live: set[Choice] = set()
        self._count = itertools.count()
        self._seats = 1

    def open(self, engine: AsyncEngine) -> None:
        """Accept requests from here on. Raises InvalidInputError on a bad template."""
        tokenizer = engine.engine.pair.tokenizer
        if tokenizer is not None:
            self._template = read_template(tokenizer.path)
        if (path := self.settings.template) is not None:
            self._template = self._template.having(read_file(path), str(path))
        self._seats = engine.engine.config.max_num_seqs
        self._watch(engine.engine.max_model_len)
        self._engine = engine

    @property
    def engine(self) -> AsyncEngine:
        """The engine. Raises ApiError while it loads, after a failure, and while the server
        ends."""
        if self._engine is None:
            raise ApiError(503, "engine: expected one that is ready, this one is loading")
        if self.is_draining:
            raise ApiError(503, "server: expected one that goes on, this one is shutting down")
        if not self._engine.is_running:
            raise ApiError(
                503, "engine: expected one that works, this one has failed or was closed"
            )
        return self._engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises ApiError if the engine has no tokenizer."""
        found = self.engine.engine.pair.tokenizer
        if found is None:
            raise ApiError(400, "prompt: expected token ids, this server has no tokenizer")
        return found

    @property
    def has_chat_template(self) -> bool:
        """True if the model has a chat template, so that the server can answer conversations."""
        return self._template.text is not None

    def tokenizer_info(self) -> dict[str, str | None]:
        """Return the special tokens by their names in tokenizer_config.json, and the chat template.

        Raises ApiError without a tokenizer.
        """
        ends = sorted(self.engine.engine.pair.eos)
        first = self.tokenizer.tokens.get(ends[0]) if ends else None
        return {
            "eos_token": first,
            "bos_token": None,
            **self._template.tokens,
            "chat_template": self._template.text,
        }

    def check_model(self, name: str | None) -> None:
        """Raise ApiError 404 for the name of a model that this server does not have."""
        if name is not None and name not in self.settings.names:
            raise ApiError(
                404,
                f"model: expected one of {', '.join(self.settings.names)}, got {show(name)}",
                param="model",
                code="model_not_found",
            )

    async def ids_of(self, prompt: str | list[int], adds_special: bool) -> list[int]:
        """Return the token ids of a prompt. Raises ApiError."""
        if not isinstance(prompt, str):
            return prompt
        most = self.engine.engine.max_model_len
        try:
            if len(prompt) <= SHORT:
                return self.tokenizer.encode(prompt, most, adds_special=adds_special)
            return await asyncio.to_thread(
                self.tokenizer.encode, prompt, most, adds_special=adds_special
            )
        except InvalidInputError as error:
            raise of_engine(error, FIELDS) from None

    async def chat_ids(self, chat: ChatAsk) -> list[int]:
        """Return the token ids of a conversation. If the ids begin with two beginning-of-sequence
        tokens, one of the two is dropped."""
        template = self._template
        if chat.template is not None:
            if not self.settings.trusts_templates:
                raise ApiError(
                    400,
                    "chat_template: expected none, this server takes no templates from requests",
                    param="chat_template",
                )
            template = template.having(chat.template, "the request")
        given = Conversation(chat.messages, chat.adds_prompt, chat.continues, chat.more)
        try:  # to_thread: a template is untrusted code, which must not block the event loop
            text = await asyncio.to_thread(template.render, given)
            ids = await self.ids_of(text, chat.ask.adds_special)
        except InvalidInputError as error:
            raise of_engine(error, FIELDS) from None
        begin = template.tokens.get("bos_token")
        is_twice = len(ids) > 1 and ids[0] == ids[1] and begin == self.tokenizer.tokens.get(ids[0])
        return ids[1:] if is_twice else ids

    async def begin(
        self, ask: Ask, name: str, prompts: Sequence[tuple[str | None, list[int]]]
    ) -> list[Choice]:
        """Queue `ask.n` answers to each prompt, in order. If not all answers can be queued, none is
        queued. Raises ApiError.

        name: the name under which `abort` can find these answers.
        """
        engine, begun_at = self.engine, time.monotonic()
        self._check_queue(ask.n, len(prompts))
        kind = RequestOutputKind.DELTA if ask.is_stream else RequestOutputKind.FINAL_ONLY
        found: dict[int, Choice] = {}

        async def queue(index: int) -> None:
            text, ids = prompts[index // ask.n]
            order = Order(ask.params, ask.method, index % ask.n, ask.has_trace)
            unique = f"{name}/{next(self._count)}"
            stream = await engine.add_request(ids, order, unique, output_kind=kind)
            found[index] = Choice(index, text, ids, stream, begun_at)
            self._live.add(found[index])

        tasks = [queue(index) for index in range(ask.n * len(prompts))]
        try:
            for failure in await asyncio.gather(*tasks, return_exceptions=True):
                if failure is not None:
                    raise failure
        except BaseException as error:
            self.end(list(found.values()))
            raise of_engine(error, FIELDS) if isinstance(error, EngineError) else error from None
        return [found[index] for index in sorted(found)]

    def end(self, choices: Sequence[Choice]) -> None:
        """Abort unfinished answers, and free their places in the queue."""
        for choice in choices:
            if choice in self._live and not choice.stream.is_done:
                self.metrics.aborted()
            choice.stream.close()
            self._live.discard(choice)

    async def outputs(
        self, choices: Sequence[Choice]
    ) -> AsyncGenerator[tuple[Choice, RequestOutput], None]:
        """Yield outputs of all choices as they arrive, and count them in the metrics. Raises
        EngineError."""
        async with aclosing(_merged(choices)) as outputs:
            async for choice, output in outputs:
                self._count_output(choice, output)
                yield choice, output

    async def abort_all(self) -> None:
        """End every request; each stream gets its last output."""
        await self._abort(list(self._live))

    async def abort(self, name: str) -> None:
        """Abort the answers that `begin` queued under the name `name`."""
        await self._abort([c for c in self._live if c.stream.id.rpartition("/")[0] == name])

    async def _abort(self, choices: Sequence[Choice]) -> None:
        if self._engine is not None and self._engine.is_running:
            await self._engine.abort([choice.stream.id for choice in choices])

    def close(self) -> None:
        """Close the engine."""
        self.is_draining = True
        if self._engine is not None:
            self._engine.close()

    @property
    def _unfinished(self) -> int:
        """Number of answers that the engine still generates.

        A finished answer that a slow client has not read does not count.
        """
        return sum(not choice.stream.is_done for choice in self._live)

    def _check_queue(self, n: int, prompts: int) -> None:
        """Raise ApiError: 400 if the answers exceed the whole queue, 429 if they exceed its free
        places."""
        places = self._seats + self.settings.limits.waiting
        if n * prompts > places:
            raise bad_field(
                "n", f"expected at most {places} answers to a request, got {n * prompts}"
            )
        if self._unfinished + n * prompts > places:
            raise ApiError(
                429, f"queue: expected at most {self.settings.limits.waiting} waiting requests"
            )

    def _count_output(self, choice: Choice, output: RequestOutput) -> None:
        for seconds in choice.take(output):
            self.metrics.interval(seconds)
        if output.finished:
            self.metrics.finished(choice)
            self._live.discard(choice)

    def _watch(self, max_model_len: int) -> None:
        def running() -> int:
            return min(self._seats, self._unfinished)

        def held() -> float:
            tokens = sum(c.tokens + len(c.prompt_ids) for c in self._live if c.tokens)
            return min(1.0, tokens / (self._seats * max_model_len))

        watch = self.metrics.watch
        watch("vllm:num_requests_running", "Requests that have a seat", running)
        watch(
            "vllm:num_requests_waiting",
            "Requests in the queue",
            lambda: self._unfinished - running(),
        )
        watch("vllm:kv_cache_usage_perc", "Share of all positions that hold a token", held)
        watch("sbrt:seats", "Sequences that can run at once", lambda: self._seats)


async def _merged(
    choices: Sequence[Choice],
) -> AsyncGenerator[tuple[Choice, RequestOutput], None]:
    if len(choices) == 1:
        finished = False
        while not finished:
            output = await choices[0].stream.next()
            finished = output.finished
            yield choices[0], output
        return
    waiting = {asyncio.ensure_future(choice.stream.next()): choice for choice in choices}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda task: waiting[task].index):
                choice = waiting.pop(task)
                output = task.result()
                if not output.finished:
                    waiting[asyncio.ensure_future(choice.stream.next())] = choice
                yield choice, output
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
