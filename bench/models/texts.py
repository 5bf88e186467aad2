"""Prompts of benches, used if the user gives none."""

from __future__ import annotations

from pathlib import Path

# 32 beginnings of Python programs, of several lines each. No two begin alike, so no prompt can
# reuse the key-value cache of another. None is answered by its own repetition.
TEXTS = Path(__file__).parent / "prompts.jsonl"
