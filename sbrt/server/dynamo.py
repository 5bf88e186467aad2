"""Runs an engine as a worker of NVIDIA Dynamo, which provides frontend, router and planner.

python -m sbrt.server.dynamo --target org/model --draft org/small-model --discovery-backend etcd

The worker needs ai-dynamo and the extra `serve`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from dynamo.common.backend import EngineConfig, LLMEngine, LlmRegistration, WorkerConfig
from dynamo.common.backend.health_check import build_health_check_payload
from dynamo.common.backend.metrics import register_engine_registry
from dynamo.common.backend.run import run
from dynamo.llm.exceptions import DynamoException, EngineShutdown, InvalidArgument, Unknown

from .errors import ApiError
from .options import EngineOptions
from .service import Service, Settings
from .tokens import chunks


class Backend(LLMEngine):
    """An engine that Dynamo starts, calls and stops as a worker."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._service = Service(Settings(names=(options.name,), root=options.folder))

    @classmethod
    async def from_args(cls, argv: Sequence[str] | None = None) -> tuple[Backend, WorkerConfig]:
        """Return (engine that is not started yet, configuration that registers the worker)."""
        parser = argparse.ArgumentParser(prog="python -m sbrt.server.dynamo")
        EngineOptions.add_flags(parser)
        parser.add_argument("--namespace", default="dynamo")
        parser.add_argument("--component", default="backend")
        parser.add_argument("--endpoint", default="generate")
        parser.add_argument("--endpoint-types", default="chat,completions")
        parser.add_argument("--custom-jinja-template", metavar="F", help="the chat template")
        parser.add_argument("--discovery-backend", default="etcd")
        parser.add_argument("--request-plane", default="tcp")
        parser.add_argument("--event-plane")
        given = vars(parser.parse_args(argv))
        names = [name for name in given if name in vars(EngineOptions())]
        options = EngineOptions.read({name: given.pop(name) for name in names})
        config = WorkerConfig(
            **given,
            model_name=options.folder,
            served_model_name=options.name,
            enable_kv_routing=False,  # the engine does not report its cached prefixes
        )
        return cls(options), config

    async def start(self, worker_id: int) -> EngineConfig:
        """Load the weights."""
        engine = await asyncio.to_thread(self._options.open)
        self._service.open(engine)
        return EngineConfig(
            model=str(engine.engine.config.model),
            served_model_name=self._options.name,
            llm=LlmRegistration(
                context_length=engine.engine.max_model_len,
                max_num_seqs=engine.engine.config.max_num_seqs,
            ),
        )

    async def generate(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        """Yield chunks of token ids. Closing the generator aborts the request."""
        try:
            async for chunk in chunks(self._service, request, context.id()):
                yield chunk
        except ApiError as error:
            raise _of(error) from None

    async def abort(self, context: Any) -> None:
        """Abort the request of a client that has disconnected."""
        await self._service.abort(context.id())

    async def cleanup(self) -> None:
        """Close the engine. May be called twice, and before `start`."""
        await asyncio.to_thread(self._service.close)

    async def register_prometheus(self, metrics: Any) -> None:
        """Add the server's metrics to those of the worker."""
        register_engine_registry(metrics, self._service.metrics.registry)

    async def health_check_payload(self) -> dict[str, Any] | None:
        """Return a request for one token, which Dynamo sends while the worker is idle."""
        return build_health_check_payload(bos_token_id=0)


def _of(error: ApiError) -> DynamoException:
    """Return an ApiError in the form that Dynamo's frontend reads."""
    kinds = {400: InvalidArgument, 503: EngineShutdown}
    return kinds.get(error.status, Unknown)(error.message)


if __name__ == "__main__":
    run(Backend)
