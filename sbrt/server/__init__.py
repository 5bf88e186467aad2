"""An OpenAI-compatible server around an engine: `sbrt serve`, or `app(engine)` inside another
server.

It needs the extra `serve`: starlette, uvicorn, jinja2, prometheus_client.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidInputError

KEY = "SBRT_API_KEY"  # the environment variable that holds the API key

if TYPE_CHECKING:
    from ..async_engine import AsyncEngine
    from ..engine import Engine
    from .protocol import Limits
    from .transport import Gate


def app(
    engine: Engine | AsyncEngine,
    *,
    names: str | Sequence[str] | None = None,
    api_key: str | None = None,
    limits: Limits | None = None,
    chat_template: Path | None = None,
    trust_request_chat_template: bool = False,
) -> Gate:
    """Return the ASGI application that serves `engine`. When the application ends, it closes the
    engine.

    names: names of the model that clients may use (None: the path of its folder). api_key: the key
    that clients must send. chat_template: a file with a template that replaces the model's own.
    trust_request_chat_template: requests may contain a template.
    Raises InvalidInputError if the extra `serve` is missing.
    """
    expect_extra()
    from ..async_engine import AsyncEngine
    from .application import build
    from .protocol import Limits
    from .service import Service, Settings

    served = engine if isinstance(engine, AsyncEngine) else AsyncEngine(engine)
    root = str(served.engine.config.model)
    given = (names,) if isinstance(names, str) else tuple(names or (root,))
    service = Service(
        Settings(
            names=given,
            root=root,
            api_key=api_key,
            limits=limits or Limits(),
            template=chat_template,
            trusts_templates=trust_request_chat_template,
        )
    )
    service.open(served)
    return build(service)


def expect_extra() -> None:
    """Raise InvalidInputError, naming the first package of the extra that is missing."""
    try:
        import jinja2  # noqa: F401
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InvalidInputError(
            f"server: expected the extra serve (pip install 'sbrt[serve]'), found no {error.name}"
        ) from None
