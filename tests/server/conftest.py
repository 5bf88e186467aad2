"""Fixtures: a server of the demo pair on a port of its own, and applications without a socket."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx2
import pytest

from sbrt import AsyncEngine, Engine, EngineConfig, SamplingParams
from sbrt.model import names
from sbrt.server.application import build
from sbrt.server.protocol import Limits
from sbrt.server.run import listen, make_server
from sbrt.server.service import Service, Settings

METHODS = ("none", "lookup", "draft_model", "pearl")
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def render(messages, adds_prompt=True):
    """Return the text that TEMPLATE makes of messages."""
    text = "".join(f"{m['role']}: {m['content']}\n" for m in messages)
    return text + ("assistant: " if adds_prompt else "")


@contextmanager
def listening(service, engine=None, seconds=10.0, sent=None):
    """Run a server in a thread; yields its url, the server and the thread. sent: size in bytes of
    the system's send buffer of a connection; None: the system's default."""
    server = make_server(service, seconds)
    if engine is not None:
        service.open(AsyncEngine(engine))
    with listen(("127.0.0.1", 0)) as listener:
        if sent is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sent)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield SimpleNamespace(
                url=f"http://127.0.0.1:{listener.getsockname()[1]}", server=server, thread=thread
            )
        finally:
            server.should_exit = True
            thread.join(60)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text(TEMPLATE)
    return path


def demo_engine(methods=()):
    """Return an engine for the demo pair. With `auto` among the methods, the engine first measures
    costs for some seconds."""
    target, (draft, _) = names.target_folder("demo"), names.draft_of("demo")
    config = EngineConfig(
        model=target, num_threads=1, speculative={"model": draft, "method": "draft_model"}
    )
    return Engine(config, methods=methods)


@pytest.fixture(scope="session")
def engine():
    """The engine of `served`. The server's answers must equal the engine's own answers."""
    return demo_engine(METHODS)


@pytest.fixture(scope="session")
def served(engine, template):
    """The url and the service of a server that all tests share. No test changes its settings."""
    settings = Settings(names=("demo", "alias"), root="demo", template=template)
    service = Service(settings)
    with listening(service, engine) as found:
        yield SimpleNamespace(url=found.url, service=service)


@pytest.fixture(scope="session")
def client(served):
    with httpx2.Client(base_url=served.url, timeout=120) as found:
        yield found


@pytest.fixture(scope="session")
def plain(engine):
    """Return plain(prompt, **params), which returns the answer of plain decoding."""

    def answer(prompt, **params):
        [out] = engine.generate(prompt, SamplingParams(**params), method="none")
        return out.outputs[0]

    return answer


def events_of(response):
    """Return the events of a stream without the final [DONE]. Checks the framing of each event."""
    *lines, end = response.text.split("\n\n")
    assert end == ""
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def until(condition):
    """Wait until a condition is true. Fails after about a minute."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")


class Local:
    """Sends requests to an application without a socket, one after the other."""

    def __init__(self, app, service=None):
        self.service, self._app = service, app

    def __call__(self, method, path, **more):
        async def call():
            transport = httpx2.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://local") as client:
                return await client.request(method, path, **more)

        return asyncio.run(call())


@pytest.fixture(scope="session")
def tools():
    """Helpers that tests share."""
    return SimpleNamespace(
        demo_engine=demo_engine,
        events_of=events_of,
        listening=listening,
        Local=Local,
        render=render,
        until=until,
        TEMPLATE=TEMPLATE,
    )


@pytest.fixture(scope="session")
def local(engine, served):
    """Return local(limits=..., api_key=..., ...), which makes an application around the engine of
    `served`."""

    def make(limits=None, template_text=None, loaded=True, **settings):
        service = Service(Settings(names=("demo",), limits=limits or Limits(), **settings))
        if loaded:
            service.open(served.service.engine)
        return Local(build(service), service)

    return make
