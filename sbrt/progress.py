"""A progress bar on stderr for what takes more than two seconds."""

from __future__ import annotations

import sys
import time

QUIET = 2.0  # seconds before anything is shown
PAUSE = 10.0  # seconds between two lines where stderr is no terminal
WIDTH = 24


class Progress:
    """`update(done, total)` as often as you like, then `close()`. Silent for short work."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._begun = time.monotonic()
        self._next = self._begun + QUIET
        self._is_terminal = sys.stderr.isatty()
        self._is_shown = False

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        share = done / total if total else 1.0
        spent = now - self._begun
        left = f", {spent / share - spent:.0f} s left" if share > 0 else ""
        if self._is_terminal:
            bar = ("#" * round(share * WIDTH)).ljust(WIDTH, ".")
            print(f"\r{self._label} [{bar}] {share:4.0%}{left} \x1b[K", end="", file=sys.stderr)
        else:
            print(f"{self._label}: {share:.0%}{left}", file=sys.stderr)
        sys.stderr.flush()
        self._is_shown = True
        self._next = now + (0.1 if self._is_terminal else PAUSE)

    def close(self) -> None:
        if self._is_shown and self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        self._is_shown = False
