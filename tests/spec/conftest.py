"""What tests of this folder share."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def tally() -> ModuleType:
    """tally.py, which is a program too."""
    spec = importlib.util.spec_from_file_location("tally", Path(__file__).with_name("tally.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def build_with(programs, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """build_with(program, mutant): a program of headers alone, the ops of a round among them.

    mutant: a header, a text that occurs once in it, and what stands there instead; or None.
    """

    def build(program: str, mutant: tuple[str, str, str] | None) -> Path:
        flags = programs.plain
        if mutant:
            part, before, after = mutant
            text = programs.text(part)
            assert text.count(before) == 1
            folder = tmp_path_factory.mktemp("mutant")
            (folder / part).parent.mkdir()
            (folder / part).write_text(text.replace(before, after))
            flags = (*flags, f"-I{folder}")
        return programs.build(program, [], flags)

    return build
