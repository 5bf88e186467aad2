"""Names of models that ship with the package or are made up, for commands, benches and Engine.

A str that is a name never means a folder of that name: write ./demo, or pass a Path.
"""

from __future__ import annotations

from collections.abc import Callable

from .._core import Model
from ..config import Folder
from . import demo_pair, real_pair
from .config import ModelConfig

DEMO, POOR, RANDOM, NONE = "demo", "demo-poor", "random", "none"
SMOLLM2 = real_pair.NAME
PAIRS = (DEMO, SMOLLM2)  # names of a target and of its draft

MakeDraft = Callable[[ModelConfig], Model]  # a draft made for a target


def target_folder(name: Folder) -> Folder:
    """The folder of a target: `demo`, `smollm2`, or a folder itself. Raises InvalidInputError."""
    if name == SMOLLM2:
        return real_pair.target_file()
    return demo_pair.demo_folder(demo_pair.TARGET) if name == DEMO else name


def default_draft(target: Folder) -> str:
    """The draft of a target that is given without one: a named pair's own, else `none`."""
    return str(target) if target in PAIRS else NONE


def draft_of(name: Folder | None) -> tuple[Folder | None, MakeDraft | None]:
    """(its folder, what makes it) of `demo`, `demo-poor`, `smollm2`, `random`, `none` or a folder.

    At most one of the two. Raises InvalidInputError.
    """
    if name is None or name == NONE:
        return None, None
    if name == RANDOM:
        return None, demo_pair.random_draft
    if name in (DEMO, POOR):
        return demo_pair.demo_folder(demo_pair.DRAFT if name == DEMO else demo_pair.POOR), None
    if name == SMOLLM2:
        return real_pair.draft_folder(), None
    return name, None
