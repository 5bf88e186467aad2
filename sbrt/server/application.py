"""The routes of the server, as a Starlette application."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..errors import EngineError
from .errors import ApiError, of_engine
from .fields import parse_body
from .protocol import (
    DETOKENIZE,
    TOKENIZE,
    Ask,
    ChatAsk,
    chat_ask,
    completion_ask,
    tokenize_ask,
)
from .replies import WRONG, ChatReply, CompletionReply, Reply, events, whole
from .service import FIELDS, Service
from .transport import (
    ClientGone,
    EventStream,
    Gate,
    error_response,
    json_response,
    read_body,
    unless_gone,
)

OWNER = "sbrt"
PAGE = Path(__file__).with_name("page.html")
# With this policy the page loads nothing from another origin, whatever text a model writes.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def build(service: Service) -> Gate:
    """Return the ASGI application of a service."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        yield
        service.close()

    routes = [
        Route("/", page),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", complete, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
        Route("/tokenizer_info", tokenizer_info),
        Route("/start_profile", start_profile, methods=["POST"]),
        Route("/stop_profile", stop_profile, methods=["POST"]),
        Route("/health", health),
        Route("/ping", health, methods=["GET", "POST"]),
        Route("/version", version),
        Route("/metrics", scrape),
    ]
    handlers: Mapping[Any, Any] = {
        ApiError: _api_error,
        ClientGone: _client_gone,
        EngineError: _engine_error,
        HTTPException: _http_error,
        Exception: _defect,
    }
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    app.state.service = service
    return Gate(app, service.settings.api_key)


async def page(_: Request) -> Response:
    """Answer with the HTML page that browsers show."""
    return HTMLResponse(PAGE.read_text("utf-8"), headers={"content-security-policy": POLICY})


async def chat(request: Request) -> Response:
    """Answer a conversation."""
    service, given = await _given(request, _service(request).chat_reader.read)
    asked = chat_ask(given, service.engine.engine.pair.generation, service.settings.limits)
    service.check_model(asked.ask.model)
    with _messages_as_prompt():
        ids = await service.chat_ids(asked)
        return await _answer(request, asked.ask, ChatReply, [(None, ids)])


async def complete(request: Request) -> Response:
    """Continue prompts."""
    service, given = await _given(request, _service(request).completion_reader.read)
    asked = completion_ask(given, service.engine.engine.pair.generation, service.settings.limits)
    service.check_model(asked.ask.model)
    prompts: list[tuple[str | None, list[int]]] = []
    for prompt in asked.prompts:
        ids = await service.ids_of(prompt, asked.ask.adds_special)
        text = None
        if asked.echoes:
            text = prompt if isinstance(prompt, str) else _text(service, ids, asked.ask)
        prompts.append((text, ids))
    return await _answer(request, asked.ask, CompletionReply, prompts)


async def models(request: Request) -> Response:
    """Answer with the list of all names of the model."""
    service = _service(request)
    return json_response(
        {"object": "list", "data": [_card(service, name) for name in service.settings.names]}
    )


async def model(request: Request) -> Response:
    """Answer with a description of the model under one of its names."""
    service, name = _service(request), request.path_params["name"]
    service.check_model(name)
    return json_response(_card(service, name))


async def tokenize(request: Request) -> Response:
    """Answer with the token ids of a prompt or a conversation."""
    service, given = await _given(request, TOKENIZE.read)
    service.check_model(given.get("model"))
    asked = tokenize_ask(given)
    if isinstance(asked, ChatAsk):
        with _messages_as_prompt():
            ids = await service.chat_ids(asked)
    else:
        ids = await service.ids_of(asked.prompts[0], asked.ask.adds_special)
    found = {
        "count": len(ids),
        "max_model_len": service.engine.engine.max_model_len,
        "tokens": ids,
    }
    if given.get("return_token_strs"):
        found["token_strs"] = [service.tokenizer.tokens.get(i, "") for i in ids]
    return json_response(found)


async def detokenize(request: Request) -> Response:
    """Answer with the text of token ids."""
    service, given = await _given(request, DETOKENIZE.read)
    service.check_model(given.get("model"))
    if "tokens" not in given:
        raise ApiError(400, "tokens: expected token ids, got none", param="tokens")
    vocab = service.engine.engine.pair.vocab
    if wrong := [i for i in given["tokens"] if i >= vocab]:
        raise ApiError(
            400, f"tokens: expected token ids below {vocab}, got {wrong[0]}", param="tokens"
        )
    text = service.tokenizer.decode(given["tokens"], skip_special=False)
    return json_response({"prompt": text})


async def tokenizer_info(request: Request) -> Response:
    """Answer with special tokens and chat template, for clients that let this server tokenise."""
    return json_response(_service(request).tokenizer_info())


async def start_profile(request: Request) -> Response:
    """Record every request from here on."""
    with _as_bad_request():
        await _service(request).engine.start_profile()
    return Response(status_code=200)


async def stop_profile(request: Request) -> Response:
    """Write the profile; the answer has its path."""
    with _as_bad_request():
        path: Path | None = await _service(request).engine.stop_profile()
    return json_response({"path": None if path is None else str(path)})


async def health(request: Request) -> Response:
    """Answer 200 while the server accepts requests, 503 before and after that."""
    await _service(request).engine.check_health()
    return Response(status_code=200)


async def version(request: Request) -> Response:
    """Answer with the version of the package."""
    from .. import __version__

    return json_response({"version": __version__})


async def scrape(request: Request) -> Response:
    """Answer with Prometheus metrics."""
    return PlainTextResponse(
        _service(request).metrics.text(), media_type="text/plain; version=0.0.4"
    )


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


async def _given(request: Request, read: Any) -> tuple[Service, dict[str, Any]]:
    """Return the service and the checked fields of the request body. Raises ApiError if the service
    is not ready, or on a bad body."""
    service = _service(request)
    _ = service.engine
    return service, read(parse_body(await read_body(request, service.settings.limits)))


async def _answer(
    request: Request,
    ask: Ask,
    kind: type[Reply],
    prompts: Sequence[tuple[str | None, list[int]]],
) -> Response:
    service = _service(request)
    begins = "chatcmpl" if kind is ChatReply else "cmpl"
    name = f"{begins}-{ask.request_id or request.state.request_id}"
    tokenizer = service.engine.engine.pair.tokenizer
    choices = await service.begin(ask, name, prompts)
    reply = kind(name, ask.model or service.settings.names[0], ask, choices, tokenizer)
    if ask.is_stream:
        return EventStream(events(service, reply), lambda: service.end(choices))
    try:
        return json_response(await unless_gone(request.receive, whole(service, reply)))
    finally:
        service.end(choices)


@contextmanager
def _as_bad_request() -> Iterator[None]:
    """Turn an EngineError of a profile call into status 400. Such an error means that the calls
    came in the wrong order, not that the engine is broken."""
    try:
        yield
    except EngineError as error:
        raise ApiError(400, str(error)) from None


@contextmanager
def _messages_as_prompt() -> Iterator[None]:
    """Rename the field at fault in the errors of a chat: `prompt` becomes `messages`, `logprobs`
    becomes `top_logprobs`."""
    try:
        yield
    except ApiError as error:
        error.param = {"prompt": "messages", "logprobs": "top_logprobs"}.get(
            error.param or "", error.param
        )
        raise


def _text(service: Service, ids: list[int], ask: Ask) -> str:
    """Return the text of a prompt's token ids. Unknown ids are skipped here; the engine refuses
    them later."""
    known = [i for i in ids if i in service.tokenizer.tokens]
    return service.tokenizer.decode(known, skip_special=ask.params.skip_special_tokens)


def _card(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": OWNER,
        "root": service.settings.root,
        "max_model_len": service.engine.engine.max_model_len,
        "sbrt": {
            "method": service.engine.engine.method.text,
            "methods": service.engine.engine.method_names,
            "has_chat_template": service.has_chat_template,
        },
    }


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _engine_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    return error_response(of_engine(error, FIELDS))


async def _client_gone(_: Request, error: Exception) -> Response:
    """Return a response for the status in the access log. The client has disconnected and reads
    nothing."""
    return Response(status_code=499)


async def _http_error(_: Request, error: Exception) -> Response:
    """Answer a request for a path or an HTTP method that does not exist."""
    assert isinstance(error, HTTPException)
    found = error_response(ApiError(error.status_code, f"request: {error.detail}"))
    found.headers.update(error.headers or {})
    return found


async def _defect(_: Request, error: Exception) -> Response:
    """Answer 500 with one sentence. Starlette raises the error again, and then the class Gate logs
    it."""
    return error_response(ApiError(500, WRONG))
