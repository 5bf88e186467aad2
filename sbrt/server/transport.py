"""The layer between ASGI and the routes. It limits the size of bodies, notices clients that
disconnect, checks API keys, and writes the access log."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError
from .protocol import Limits
from .replies import WRONG, as_json

LOG = logging.getLogger("sbrt.server")
ACCESS = logging.getLogger("sbrt.server.access")
OPEN = ("/", "/health", "/ping", "/version", "/metrics")  # paths that need no API key
LONGEST_ID = 128

T = TypeVar("T")


class ClientGone(Exception):
    """Raised if the client disconnects, so that no client waits for the answer any more."""


def json_response(value: Any, status: int = 200) -> Response:
    """Make a response with a JSON body."""
    return Response(as_json(value), status, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """Make a response with OpenAI's error object."""
    found = json_response(error.body(), error.status)
    found.headers.update(error.headers)
    return found


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read the body of a request. Raises ApiError if it is too large or comes too slowly."""
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length[:20]) > limits.body:
        raise ApiError(413, f"body: expected at most {limits.body} bytes, got {length[:20]}")
    found, size = [], 0
    until = time.monotonic() + limits.body_seconds
    more = True
    while more:
        try:
            left = until - time.monotonic()
            message = await asyncio.wait_for(request.receive(), max(left, 0.001))
        except asyncio.TimeoutError:
            raise ApiError(
                408, f"body: expected it within {limits.body_seconds:g} s, got a part"
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        found.append(message.get("body", b""))
        size += len(found[-1])
        if size > limits.body:
            raise ApiError(413, f"body: expected at most {limits.body} bytes, got more")
        more = message.get("more_body", False)
    return b"".join(found)


async def until_gone(receive: Receive) -> None:
    """Wait until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """Return the result of `work`. If the client disconnects, cancel `work` and raise
    ClientGone."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(until_gone(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, leaving):
            one.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


class EventStream(Response):
    """A stream of server-sent events. `on_end` is called exactly once, when the stream ends."""

    def __init__(self, events: AsyncGenerator[bytes, None], on_end: Callable[[], None]) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"
        self._events, self._on_end = events, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until they end or the client disconnects."""
        try:
            with suppress(ClientGone):
                await unless_gone(receive, self._send(send))
        finally:
            self._on_end()

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            async for body in events:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class Gate:
    """The outermost layer. It gives each request an id, checks the API key, writes the access log,
    and answers 500 if the code fails."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app = app
        self._key = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request. Anything that is not HTTP is passed on unchanged."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        name = request_id(headers.get(b"x-request-id", b""))
        scope.setdefault("state", {})["request_id"] = name
        begun, status = time.monotonic(), 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = [*message.get("headers", ()), (b"x-request-id", name.encode())]
                message = {**message, "headers": given}
            await send(message)

        try:
            if self._is_refused(scope["path"], headers.get(b"authorization", b"")):
                error = ApiError(401, "api key: expected the server's, got another or none")
                await error_response(error)(scope, receive, named)
            else:
                await self._app(scope, receive, named)
        except Exception:
            LOG.exception("request %s has failed", name)
            if not status:
                await error_response(ApiError(500, WRONG))(scope, receive, named)
        finally:
            seconds = time.monotonic() - begun
            client = (scope.get("client") or ("-",))[0]
            ACCESS.info(
                "%s %s %s %d %.3f s %s",
                *(client, scope["method"], ascii(scope["path"])[1:-1], status, seconds, name),
            )

    def _is_refused(self, path: str, given: bytes) -> bool:
        if self._key is None or path in OPEN:
            return False
        return not hmac.compare_digest(given, self._key)


def request_id(given: bytes) -> str:
    """Return the client's request id, or a new one. The client's id must be short and have only
    plain characters."""
    text = given.decode("ascii", "replace")
    is_plain = text and len(text) <= LONGEST_ID and all(c.isalnum() or c in "-_.:" for c in text)
    return text if is_plain and text.isascii() else uuid.uuid4().hex
