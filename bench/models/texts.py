"""Prompts of benches, used if the user gives none."""

from __future__ import annotations

from pathlib import Path

# 32 beginnings of Python programs, of several lines each. No two begin alike, so no prompt can
# reuse another's KV cache. None has a continuation that merely repeats the prompt, which would
# favour look-up.
TEXTS = Path(__file__).parent / "prompts.jsonl"
