"""Options that define the engine of `server.dynamo` or `server.ray`, given as texts or as
values."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from .. import check
from ..async_engine import AsyncEngine
from ..config import build
from ..errors import InvalidInputError
from ..model.names import DEMO, default_draft, target_folder


@dataclass(frozen=True)
class EngineOptions:
    """The options of the engine under EngineConfig's names, and the name of the model.

    draft None: no draft, except that the demo target gets the demo draft. served_model_name: the
    name of the model that clients use; None: the text of `target`.
    """

    target: str = DEMO
    draft: str | None = None
    method: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    num_threads: int | None = None
    served_model_name: str | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Any:
        """Make options from values, or from their texts. Raises InvalidInputError."""
        types = get_type_hints(cls)
        numbers = {name for name, kind in types.items() if int in (kind, *get_args(kind))}
        return build(cls, {k: _number(k, v) if k in numbers else v for k, v in given.items()})

    @classmethod
    def add_flags(cls, parser: ArgumentParser) -> None:
        """Add a flag for each option."""
        for f in fields(cls):
            parser.add_argument(f"--{f.name.replace('_', '-')}", default=f.default)

    @property
    def name(self) -> str:
        """The name of the model that clients use."""
        return self.served_model_name or self.target

    @property
    def folder(self) -> str:
        """The folder, file or hub name of the target."""
        return str(target_folder(self.target))

    def open(self) -> AsyncEngine:
        """Make the engine. Raises InvalidInputError on bad options."""
        draft = default_draft(self.target) if self.draft is None else self.draft
        speculative = None if self.method is None else {"method": self.method}
        return AsyncEngine.from_pretrained(
            self.target,
            draft,
            speculative=speculative,
            dtype=self.dtype,
            device=self.device,
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs,
            num_threads=self.num_threads,
        )


def _number(name: str, value: Any) -> Any:
    """Return the integer that a str spells. Return a value that is no str unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        raise InvalidInputError(f"{name}: expected an integer, got {check.show(value)}") from None
