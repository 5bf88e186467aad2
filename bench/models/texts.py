"""Prompts of benches where the user gives none."""

from __future__ import annotations

from pathlib import Path

# 32 beginnings of Python programs, of several lines each. No two begin alike, so no prompt finds
# the key-value cache of another of any use, and none answers itself by repetition.
TEXTS = Path(__file__).parent / "prompts.jsonl"
