"""Prompts of benches, used if the user gives none."""

from __future__ import annotations

from pathlib import Path

# 32 beginnings of Python programs, of several lines each. Their first tokens differ, so that no
# prompt reuses another prompt's KV. None has a continuation that merely repeats the prompt, because
# that would favour look-up.
TEXTS = Path(__file__).parent / "prompts.jsonl"
