"""Finds models by names such as `demo`, for commands, benches and Engine. These models ship with
the package, are downloaded, or are made here.

If a str is such a name, it never means a folder. For a folder with that name write ./demo, or pass
a Path.
"""

from __future__ import annotations

from collections.abc import Callable

from .._core import Model
from ..config import Folder
from . import demo_pair, real_pair
from .config import ModelConfig

DEMO, POOR, RANDOM, NONE = "demo", "demo-poor", "random", "none"
SMOLLM2 = real_pair.NAME
PAIRS = (DEMO, SMOLLM2)  # names of a target together with its draft

MakeDraft = Callable[[ModelConfig], Model]  # makes a draft for a target


def target_folder(name: Folder) -> Folder:
    """Return the folder of `demo` or the file of `smollm2`. Any other name is taken as a path.

    Raises InvalidInputError if the target is missing.
    """
    if name == SMOLLM2:
        return real_pair.target_file()
    return demo_pair.demo_folder(demo_pair.TARGET) if name == DEMO else name


def default_draft(target: Folder) -> str:
    """Return the draft for a target if the caller names none: the draft of a named pair, otherwise
    `none`."""
    return str(target) if target in PAIRS else NONE


def draft_of(name: Folder | None) -> tuple[Folder | None, MakeDraft | None]:
    """Return (folder, maker) for the draft `demo`, `demo-poor`, `smollm2`, `random`, `none` or a
    folder.

    folder: the draft's folder, or None. maker: a function that makes the draft, or None. Folder and
    maker are never both given. Raises InvalidInputError.
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
