"""Runs the server. The server listens while the engine loads, and lets running requests end before
it stops."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..async_engine import AsyncEngine
from ..engine import Engine
from .application import build
from .protocol import Limits
from .service import Service

LOG = logging.getLogger("sbrt.server")
HEAD_SECONDS = 20.0  # maximum seconds for the head of a request; the body has its own limit
KEEP_ALIVE = 30  # seconds for which a connection without a request stays open
LAST_SECONDS = 5  # seconds that streams have to end after their requests were aborted


class Protocol(H11Protocol):
    """The HTTP/1.1 protocol with two time limits: for the head of a request, and for a client that
    reads nothing.

    The connection to a client that reads nothing is cut, which aborts its request.
    """

    send_seconds = Limits.send_seconds
    _timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the timer for the head of a request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Read data. A complete head stops the timer for heads."""
        if not self._has_request:
            self._wait()
        super().data_received(data)
        if self._has_request:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop()
        self._stop_send()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the timer that cuts off a client that reads nothing."""
        super().pause_writing()
        self._wait_send()

    def resume_writing(self) -> None:
        """Stop the timer: the client has read, and the write buffer has room again."""
        super().resume_writing()
        self._stop_send()

    @property
    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _wait_send(self) -> None:
        held = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(self.send_seconds, self._check_send, held)

    def _check_send(self, held: int) -> None:
        """Cut the connection if the client has read nothing, which means that the write buffer has
        not shrunk.

        While writing is paused, nothing is added to the buffer.
        """
        if self.transport.get_write_buffer_size() < held:
            self._wait_send()
        else:
            LOG.warning("a client has read nothing for %g s and is dropped", self.send_seconds)
            self.transport.abort()

    def _stop_send(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """A server that ends on a signal. After the signal the server refuses new requests. After
    `seconds` more, it aborts the requests that still run."""

    def __init__(self, config: uvicorn.Config, service: Service, seconds: float) -> None:
        super().__init__(config)
        self._service, self._seconds = service, seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to shut down. A second signal stops the server immediately."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running requests end."""
        self._service.is_draining = True
        late = asyncio.create_task(self._abort_late())
        try:
            await super().shutdown(sockets)
        finally:
            late.cancel()

    async def _abort_late(self) -> None:
        await asyncio.sleep(self._seconds)
        await self._service.abort_all()


def make_server(service: Service, seconds: float) -> Server:
    """Make the HTTP server of a service. seconds: time that running requests have to end after a
    signal."""
    limits = {"send_seconds": service.settings.limits.send_seconds}
    config = uvicorn.Config(
        build(service),  # type: ignore[arg-type]
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="on",
        loop="asyncio",
        http=type("Protocol", (Protocol,), limits),
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(seconds) + LAST_SECONDS,
    )
    return Server(config, service, seconds)


def serve(
    service: Service, load: Callable[[], Engine], address: tuple[str, int], seconds: float
) -> int:
    """Listen, load the engine, and serve until a signal.

    seconds: time that running requests have to end after the signal. Returns the exit code. Raises
    OSError, and the errors of `load`.
    """
    listener = listen(address)
    server = make_server(service, seconds)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            _open(service, load, listener)
        except BaseException as error:
            failures.append(error)
            server.should_exit = True

    threading.Thread(target=work, name="sbrt load", daemon=True).start()
    with listener:
        server.run(sockets=[listener])
    if failures:
        raise failures[0]
    return 0


def _open(service: Service, load: Callable[[], Engine], listener: socket.socket) -> None:
    engine = load()
    try:
        service.open(AsyncEngine(engine))
    except BaseException:
        engine.close()
        raise
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    seats = engine.config.max_num_seqs
    LOG.info(
        "serving %s: %s weights on %s, method %s, %d seat%s, %d tokens at most, at http://%s:%d",
        *(service.settings.names[0], engine.pair.dtype, engine.config.device, engine.method.text),
        *(seats, "" if seats == 1 else "s", engine.max_model_len, host, port),
    )


def listen(address: tuple[str, int]) -> socket.socket:
    """Open a socket that listens at an address. Raises OSError with one sentence."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        why = error.strerror or error
        raise OSError(f"--host {host} --port {port}: expected a free address, got: {why}") from None
    return listener
