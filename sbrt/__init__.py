"""sbrt: speculative decoding with branches that run ahead, every token equal to plain decoding.

from sbrt import Engine, SamplingParams

engine = Engine.from_pretrained(target="path/to/target", draft="path/to/draft")
out = engine.generate("def quicksort(", SamplingParams(max_tokens=128))[0]
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from ._core import build_info
from .config import EngineConfig, SpeculativeConfig
from .engine import Engine
from .errors import EngineError, InvalidInputError
from .outputs import CompletionOutput, RequestMetrics, RequestOutput
from .sampling import SamplingParams

try:
    __version__ = version("sbrt")
except PackageNotFoundError:  # a checkout that has not been installed
    __version__ = "0+unknown"

__all__ = [
    "CompletionOutput",
    "Engine",
    "EngineConfig",
    "EngineError",
    "InvalidInputError",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
    "SpeculativeConfig",
    "build_info",
]
