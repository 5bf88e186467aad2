"""The server on a Ray cluster: replicas at one endpoint, with one engine each.

serve run sbrt.server.ray:app target=org/model draft=org/small-model min_replicas=2

Ray routes each request to a replica, and replaces a replica that fails. Ray adds replicas while
each running replica has more than `target_ongoing_requests` requests. Needs the extra `serve` and
`ray[serve]`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import check
from ..errors import InvalidInputError
from . import KEY, expect_extra
from . import app as application
from .options import EngineOptions

if TYPE_CHECKING:
    from ray.serve import Application


@dataclass(frozen=True)
class Options(EngineOptions):
    """The arguments of `app`. From a command line their values are texts.

    num_threads: threads of one engine; Ray reserves this number of CPUs for it. api_key: None means
    the value of $SBRT_API_KEY, or no key if that is not set. *_ongoing_requests: numbers of
    requests in one replica, including those that wait for the replica's engine.
    """

    num_threads: int = 1
    api_key: str | None = None
    min_replicas: int = 1
    max_replicas: int = 4
    target_ongoing_requests: int = 4
    max_ongoing_requests: int = 64

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Options:
        """Make options from values, or from their texts. Raises InvalidInputError."""
        found: Options = super().read(given)
        check.integer("num_threads", found.num_threads, 1)
        check.integer("min_replicas", found.min_replicas, 0)
        check.integer("max_replicas", found.max_replicas, max(1, found.min_replicas))
        target = check.integer("target_ongoing_requests", found.target_ongoing_requests, 1)
        check.integer("max_ongoing_requests", found.max_ongoing_requests, target)
        return found


class Replica:
    """The ASGI application of one engine. Ray Serve makes the application inside an actor."""

    def __init__(self, options: Options) -> None:
        self._engine = options.open()
        self._app = application(self._engine, names=options.name, api_key=options.api_key)

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    async def check_health(self) -> None:
        """Raise EngineError once the engine has failed: Ray then replaces the replica."""
        await self._engine.check_health()


def app(args: dict[str, Any]) -> Application:
    """Return the Ray Serve application for these Options. Raises InvalidInputError."""
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
