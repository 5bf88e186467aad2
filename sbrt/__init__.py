"""sbrt: speculative decoding on several branches, which the draft computes during verification. The
tokens equal those of plain decoding.

from sbrt import Engine, SamplingParams

engine = Engine.from_pretrained(target="path/to/target", draft="path/to/draft")
out = engine.generate("def quicksort(", SamplingParams(max_tokens=128))[0]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from ._core import build_info
except ModuleNotFoundError as _error:
    if _error.name != f"{__name__}._core":
        raise
    raise ImportError(
        f"{__name__}: expected its compiled core, found none: build it with `pip install -e .`, or "
        "`make`; from inside a checkout only an editable install is found"
    ) from None
from ._moved import install as _install_old_names
from .config import EngineConfig, SpeculativeConfig
from .engine import Engine
from .errors import EngineError, InvalidInputError
from .outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from .sampling import SamplingParams

if TYPE_CHECKING:
    from .async_engine import AsyncEngine, RequestOutputKind

_install_old_names()
__version__ = str(build_info()["version"])

__all__ = [
    "AsyncEngine",
    "CompletionOutput",
    "Engine",
    "EngineConfig",
    "EngineError",
    "InvalidInputError",
    "Logprob",
    "RequestMetrics",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "SpeculativeConfig",
    "build_info",
]


def __getattr__(name: str) -> Any:
    """Import AsyncEngine and RequestOutputKind only when they are used. They need asyncio, which
    would slow `import sbrt`."""
    if name in ("AsyncEngine", "RequestOutputKind"):
        from . import async_engine

        return getattr(async_engine, name)
    raise AttributeError(f"module {__name__}: expected a name it has, got {name!r}")
