"""Answers requests of a router that tokenises. A request has token ids; the answer is chunks of
token ids.

Requests and chunks have the form of NVIDIA Dynamo's LLMEngine. The router itself applies the chat
template, turns tokens into text, and searches for stop strings.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from ..check import show
from ..errors import InvalidInputError
from ..model.generation_config import Defaults
from ..sampling import SamplingParams
from .answers import Choice, usage
from .errors import bad_field, of_engine
from .fields import SAMPLING, checked, integer, top_k
from .protocol import Ask
from .replies import check_end
from .service import Service

# Fields that the router handles itself, or that change no token.
ROUTERS = ("best_of", "length_penalty", "use_beam_search", "stop", "skip_special_tokens")
NOTHING = (None, False, {}, [])  # compared with their types, because the temperature 0 equals False


def ask_of(request: Mapping[str, Any], defaults: Defaults) -> Ask:
    """Check a request of the router, and return it as an Ask. Raises ApiError for fields that are
    wrong or not built.

    The number of answers is 1, because Dynamo's frontend reads one answer to a request.
    """
    sampling, stops, output = (
        dict(request.get(name) or {})
        for name in ("sampling_options", "stop_conditions", "output_options")
    )
    stop_ids = set(stops.pop("stop_token_ids_visible", None) or ())
    hidden = stops.pop("stop_token_ids_hidden", None) or ()
    given = {k: v for k, v in {**sampling, **stops, **output}.items() if not _is_nothing(v)}
    checked(integer(1, 1), "n", given.pop("n", 1))
    for name in ROUTERS:
        given.pop(name, None)
    for name, value in given.items():
        if name not in (*SAMPLING, "max_tokens"):
            raise bad_field(name, f"not built yet, got {show(value)}")
    stop_ids.update(given.get("stop_token_ids", ()), () if given.get("ignore_eos") else hidden)
    given["stop_token_ids"] = sorted(stop_ids)
    if "top_k" in given:
        given["top_k"] = top_k("top_k", given["top_k"])
    try:
        params = SamplingParams(**{"max_tokens": None, **defaults.given, **given})
    except InvalidInputError as error:
        raise of_engine(error, {name: name for name in (*SAMPLING, "max_tokens")}) from None
    return Ask(
        model=request.get("model"),
        request_id=None,
        params=params,
        n=1,
        method=None,
        is_stream=True,
        has_usage=True,
        is_continuous=False,
        has_token_ids=True,
        has_trace=False,
        adds_special=False,
    )


async def chunks(
    service: Service, request: Mapping[str, Any], name: str
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the chunks of a request; the last one has finish_reason and completion_usage.

    name: the request's name for the engine. Raises ApiError.
    """
    ask = ask_of(request, service.engine.engine.pair.generation)
    choices = await service.begin(ask, name, [(None, list(request["token_ids"]))])
    try:
        async with aclosing(service.outputs(choices)) as outputs:
            async for choice, output in outputs:
                [answer] = output.outputs
                chunk: dict[str, Any] = {"token_ids": answer.token_ids, "index": 0}
                if output.finished:
                    chunk |= {
                        "finish_reason": _reason(choice),
                        "completion_usage": usage([choice], 1),
                    }
                yield chunk
    finally:
        service.end(choices)


def _reason(choice: Choice) -> str | None:
    """Return the reason why an answer ended. Raises ApiError for an answer that failed."""
    if choice.finish_reason == "abort":
        return "cancelled"
    check_end(choice)
    return choice.finish_reason


def _is_nothing(value: Any) -> bool:
    return any(type(value) is type(nothing) and value == nothing for nothing in NOTHING)
