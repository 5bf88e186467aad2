"""The server on a Ray cluster: replicas behind one endpoint, one engine each.

serve run sbrt.server.ray:app target=org/model draft=org/small-model min_replicas=2

Ray routes each request to a replica, replaces one that fails, and adds replicas while those that
run have more than `target_ongoing_requests` each. Needs the extra `serve` and `ray[serve]`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from .. import check
from ..async_engine import AsyncEngine
from ..config import build
from ..errors import InvalidInputError
from ..model.names import DEMO
from . import KEY, expect_extra
from . import app as application

if TYPE_CHECKING:
    from ray.serve import Application


@dataclass(frozen=True)
class Options:
    """The arguments of `app`. From a command line they are texts.

    target, draft, method, dtype, device, max_model_len: as EngineConfig has them. draft None: none,
    but the demo pair's own for the demo target. num_threads: of an engine, and CPUs that Ray
    reserves for it. served_model_name: what clients call the model. api_key: None: $SBRT_API_KEY,
    else nothing. *_ongoing_requests: of a replica, those that wait for its engine included.
    """

    target: str = DEMO
    draft: str | None = None
    method: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    max_model_len: int | None = None
    num_threads: int = 1
    served_model_name: str | None = None
    api_key: str | None = None
    min_replicas: int = 1
    max_replicas: int = 4
    target_ongoing_requests: int = 4
    max_ongoing_requests: int = 64

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Options:
        """Options of texts or values. Raises InvalidInputError."""
        numbers = {f.name for f in fields(cls) if "int" in str(f.type)}
        found = build(cls, {k: _number(k, v) if k in numbers else v for k, v in given.items()})
        check.integer("num_threads", found.num_threads, 1)
        check.integer("min_replicas", found.min_replicas, 0)
        check.integer("max_replicas", found.max_replicas, max(1, found.min_replicas))
        check.integer("target_ongoing_requests", found.target_ongoing_requests, 1)
        least = found.target_ongoing_requests
        check.integer("max_ongoing_requests", found.max_ongoing_requests, least)
        return found

    def open(self) -> AsyncEngine:
        """The engine of a replica. Raises InvalidInputError."""
        draft = DEMO if self.draft is None and self.target == DEMO else self.draft
        speculative = None if self.method is None else {"method": self.method}
        return AsyncEngine.from_pretrained(
            self.target,
            draft,
            speculative=speculative,
            dtype=self.dtype,
            device=self.device,
            max_model_len=self.max_model_len,
            num_threads=self.num_threads,
        )


class Replica:
    """The ASGI application of one engine, as Ray Serve's ingress makes it in an actor."""

    def __init__(self, options: Options) -> None:
        self._engine = options.open()
        names = options.served_model_name or options.target
        self._app = application(self._engine, names=names, api_key=options.api_key)

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    async def check_health(self) -> None:
        """Raises EngineError once the engine has failed: Ray then replaces the replica."""
        await self._engine.check_health()


def app(args: dict[str, Any]) -> Application:
    """The Ray Serve application of these Options. Raises InvalidInputError."""
    expect_extra()
    try:
        from ray import serve
    except ImportError:
        raise InvalidInputError(
            "server: expected Ray Serve (pip install 'ray[serve]'), found none"
        ) from None
    options = Options.read({"api_key": os.environ.get(KEY), **args})
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="sbrt",
        max_ongoing_requests=options.max_ongoing_requests,
        autoscaling_config={
            "min_replicas": options.min_replicas,
            "max_replicas": options.max_replicas,
            "target_ongoing_requests": options.target_ongoing_requests,
        },
        ray_actor_options={
            "num_cpus": options.num_threads,
            "num_gpus": int(options.device.startswith("cuda")),
        },
    )
    found: Application = deployment.bind(options)
    return found


def _number(name: str, value: Any) -> Any:
    """A text as the integer that it spells; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        raise InvalidInputError(f"{name}: expected an integer, got {check.show(value)}") from None
