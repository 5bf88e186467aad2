"""Keeps modules importable under the names they had before they moved into subpackages. Such an
import gives a DeprecationWarning."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from warnings import warn

_ROOMS = {
    "model": """added_tokens checkpoint demo_pair detokenizer fingerprint generation_config gguf
        hrad hub names quantization quantized quantized_folder rope safetensors_file stored
        tokenizer""",
    "serve": "pair presets request scheduler shaping turn",
    "trace": "chrome profile timeline",
    "tools": """advice cli compare costs flags measure picture plan progress prompts simulate
        table""",
}
MOVED = {f"sbrt.{name}": f"sbrt.{room}.{name}" for room in _ROOMS for name in _ROOMS[room].split()}
MOVED |= {
    f"sbrt.hrad_{name}": f"sbrt.tools.hrad.{name}" for name in ("cli", "data", "eval", "train")
}
MOVED["sbrt.model_config"] = "sbrt.model.config"


class _Loader:
    """Loads a module under its former name: copies all names of the moved module into it."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        found = vars(import_module(MOVED[module.__name__]))
        vars(module).update((k, v) for k, v in found.items() if not k.startswith("__"))


class Finder:
    """Finds modules by their former names. Python asks this finder last, after the usual finders
    have found no module."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that has moved; None for any other name."""
        if name not in MOVED:
            return None
        warn(f"{name}: expected its new name, {MOVED[name]}", DeprecationWarning, stacklevel=2)
        return ModuleSpec(name, _Loader())  # type: ignore[arg-type]


def install() -> None:
    """Make the former names importable."""
    if Finder not in sys.meta_path:
        sys.meta_path.append(Finder)  # type: ignore[arg-type]
