"""What tests of this folder share."""

import importlib.util
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
