"""Reads the prompts of compare and the benches from a file of JSON lines, and has a few built-in
prompts. All prompts are used without a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..check import is_file, show
from ..errors import InvalidInputError

MAX_LINE = 4 * 2**20  # bytes of one line

BUILT_IN = (
    "def count_words(text: str) -> dict[str, int]:\n"
    '    """How often each word of text occurs."""\n',
    "def is_prime(number: int) -> bool:\n"
    '    """Whether number has no divisor but 1 and itself."""\n',
    'def flatten(nested: list) -> list:\n    """All items of lists within lists, in order."""\n',
    "import os\n\n\ndef list_files(folder, suffix):\n"
    '    """Return the paths below folder whose names end with suffix."""\n',
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "def merge_sorted(left, right):\n"
    '    """Merge two sorted lists into one sorted list."""\n    result = []\n',
)


def read_prompts(path: Path, limit: int | None = None) -> list[str]:
    """Read the first `limit` prompts of a JSONL file. A prompt is the field `prompt`, the field
    `question` or the first item of `turns`.

    Raises InvalidInputError, naming file and line.
    """
    if not is_file(path):
        raise InvalidInputError(f"prompts: expected a file of JSON lines, found no {str(path)!r}")
    found: list[str] = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if limit is not None and len(found) >= limit:
                break
            if raw.strip():
                found.append(_prompt_of(f"{path}, line {number}", raw))
    if not found:
        raise InvalidInputError(f"prompts: expected at least one, got none from {str(path)!r}")
    return found


def _prompt_of(where: str, raw: bytes) -> str:
    if len(raw) > MAX_LINE:
        raise InvalidInputError(f"{where}: expected at most {MAX_LINE} bytes, got {len(raw)}")
    try:
        line: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidInputError(f"{where}: expected a JSON object, got {show(raw)}") from None
    if isinstance(line, dict):
        for key in ("prompt", "question", "turns"):
            value = line.get(key)
            if key == "turns" and isinstance(value, list) and value:
                value = value[0]
            if isinstance(value, str) and value:
                return value
    raise InvalidInputError(f"{where}: expected a prompt, question or turns, got {show(line)}")
