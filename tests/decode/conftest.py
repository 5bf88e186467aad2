"""Fixtures for the tests of this folder."""

import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def tally() -> ModuleType:
    """Return the module tally.py, which is also a program."""
    spec = importlib.util.spec_from_file_location("tally", Path(__file__).with_name("tally.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def deal(run_all) -> Callable[..., Counter]:
    """Return a function deal(program, sequences, seed, cpu, *more, shares=2). It runs a program of
    this folder in `shares` processes, and returns the sum of their JSON results.

    Process i runs the worlds i, i + shares, i + 2 shares, ...
    """

    def deal(
        program: str, sequences: int, seed: int, cpu: float, *more: object, shares: int = 2
    ) -> Counter:
        each = ["--sequences", -(-sequences // shares), "--seed", seed, "--cpu", cpu]
        command = [sys.executable, Path(__file__).with_name(program), "--step", shares, *each]
        outputs = run_all([*command, *more, "--first", i] for i in range(shares))
        return sum((Counter(json.loads(out.splitlines()[-1])) for out in outputs), Counter())

    return deal
