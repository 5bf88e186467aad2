"""AsyncEngine: an engine for event loops, with the interface of vLLM's AsyncLLM.

One thread, the pump, makes every call to the engine. Event loops hand calls to the pump through a
queue, so no loop ever waits for a round. The pump hands each output to the loop that made the
request.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from .config import Folder
from .engine import Engine
from .errors import EngineError, InvalidInputError
from .methods import Method
from .outputs import RequestOutput
from .pump import Order, Pump, RequestOutputKind, Stream
from .sampling import SamplingParams

__all__ = ["AsyncEngine", "Order", "RequestOutputKind", "Stream"]

SHORT = 2**14  # maximum characters of a prompt that the event loop's thread encodes itself

T = TypeVar("T")


class AsyncEngine:
    """Answers requests of one or several event loops.

    An AsyncEngine takes over `engine`: no other code may call the engine's `step`, and `close`
    closes the engine. Every method raises EngineError in a fork, and once the engine has failed or
    was closed.
    """

    def __init__(self, engine: Engine) -> None:
        if not isinstance(engine, Engine):
            raise InvalidInputError(f"AsyncEngine: expected an Engine, got {type(engine).__name__}")
        self.engine = engine
        self._pump = Pump(engine)
        self._process = os.getpid()
        self._count = itertools.count()
        self._finalizer = weakref.finalize(self, self._pump.stop)
        # The pump runs in a daemon thread, so the process may end without stopping it.
        self._finalizer.atexit = False

    @classmethod
    def from_pretrained(
        cls, target: Folder, draft: Folder | None = None, **fields: Any
    ) -> AsyncEngine:
        """Make an engine of two models, as `Engine.from_pretrained` does."""
        return cls(Engine.from_pretrained(target, draft, **fields))

    @property
    def is_running(self) -> bool:
        """True while the engine accepts requests."""
        return self._pump.is_running and os.getpid() == self._process

    @property
    def errored(self) -> bool:
        """True once the engine has failed. A failed engine accepts no requests."""
        return self._pump.error is not None

    async def check_health(self) -> None:
        """Raise EngineError with the reason if the engine accepts no requests."""
        self._check()

    async def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE,
        method: str | Method | None = None,
        completion: int = 0,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Yield the outputs of one prompt. If the caller closes the generator or cancels the task,
        the request is aborted.

        output_kind: CUMULATIVE outputs hold everything so far, DELTA outputs hold what is new,
        FINAL_ONLY gives one output. A slow reader gets fewer, larger outputs.
        completion: index of this answer, if one prompt gets several answers with the same seed.
        request_id None: the engine makes an id. Raises InvalidInputError on a bad request.
        """
        order = Order(sampling_params, method, completion)
        stream = await self.add_request(prompt, order, request_id, output_kind=output_kind)
        try:
            finished = False
            while not finished:
                output = await stream.next()
                finished = output.finished
                yield output
        finally:
            stream.close()

    async def add_request(
        self,
        prompt: Any,
        order: Order,
        request_id: str | None = None,
        *,
        output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE,
    ) -> Stream:
        """Queue a request. Return the Stream of its outputs once the engine has accepted the
        request.

        The caller must `close` the stream. Raises InvalidInputError on a bad request.
        """
        self._check()
        if request_id is None:
            request_id = f"async-{next(self._count)}"
        text, ids = await self._encoded(prompt)
        stream = Stream(self._pump, request_id, text, ids)
        stream.kind = RequestOutputKind(output_kind)
        try:
            await self._ask(partial(self._pump.begin, stream, order))
        except BaseException:
            stream.close()
            raise
        return stream

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """End requests that are running or queued. When the call returns, their seats are free.

        Each request gets a last output with finish_reason "abort". Ids of finished requests are
        ignored.
        """
        wanted = [request_id] if isinstance(request_id, str) else list(request_id)
        await self._ask(partial(self._pump.abort, wanted))

    async def start_profile(self, path: Folder | None = None) -> None:
        """Record every request from here on, like `Engine.start_profile`."""
        await self._ask(partial(self.engine.start_profile, path))

    async def stop_profile(self) -> Path | None:
        """End the profile and write its file; returns its path, like `Engine.stop_profile`."""
        return await self._ask(self.engine.stop_profile)

    def close(self) -> None:
        """Fail unfinished requests, stop the pump's thread and close the engine. May be called
        twice."""
        if os.getpid() == self._process:
            self._pump.stop()
            self._pump.join()

    def __enter__(self) -> AsyncEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self) -> None:
        if os.getpid() != self._process:
            self.engine.has_unfinished_requests()  # raises the engine's error for a fork
            raise EngineError("AsyncEngine: expected the process that made it, got a fork")
        self._pump.check()

    async def _ask(self, call: Callable[[], T]) -> T:
        """Let the pump's thread make a call between two rounds; returns the result of the call."""
        self._check()
        return await asyncio.wrap_future(self._pump.ask(call))

    async def _encoded(self, prompt: Any) -> tuple[str | None, Any]:
        """Return (text, token ids) of a prompt.

        The text is None if the prompt is not text. If the prompt is bad, it is returned in place of
        the ids, and the engine refuses it later.
        """
        if isinstance(prompt, Mapping) and set(prompt) == {"prompt_token_ids"}:
            return None, prompt["prompt_token_ids"]
        if isinstance(prompt, Mapping) and set(prompt) == {"prompt"}:
            prompt = prompt["prompt"]
        if not isinstance(prompt, str):
            return None, prompt
        if len(prompt) <= SHORT:
            return prompt, self.engine.encode(prompt)
        return prompt, await asyncio.to_thread(self.engine.encode, prompt)
