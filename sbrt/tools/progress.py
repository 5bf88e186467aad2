"""Shows a progress bar on stderr for work that takes more than two seconds."""

from __future__ import annotations

import os
import sys
import threading
import time

QUIET = 2.0  # seconds before anything is shown
PAUSE = 10.0  # seconds between two lines if stderr is no terminal
WIDTH = 24  # characters of the bar


class Progress:
    """Call `update(done, total)` as often as you like, then `close()`. Short work shows nothing.

    On a terminal one line is redrawn. Elsewhere (a file, TERM=dumb) a new line is written every ten
    seconds. There are no colours. If there is no update for two seconds, a timer shows the bar
    once.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._begun = time.monotonic()
        self._next = self._begun + QUIET
        self._is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._is_shown = False
        self._now: tuple[int, int, str] = (0, 0, "")
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def update(self, done: int, total: int, what: str = "") -> None:
        """Report progress: `done` of `total`, in any unit. `what` names the current step."""
        with self._lock:
            self._now = (done, total, what)
            if time.monotonic() >= self._next:
                self._draw()
            elif self._timer is None and not self._is_shown:
                self._timer = threading.Timer(self._next - time.monotonic(), self._draw_late)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Remove the bar from a terminal."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self._is_shown and self._is_terminal:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_shown = False
            self._next = float("inf")

    def _draw_late(self) -> None:
        with self._lock:
            if not self._is_shown and time.monotonic() >= self._next:
                self._draw()

    def _draw(self) -> None:
        done, total, what = self._now
        now = time.monotonic()
        share = done / total if total else 1.0
        spent = now - self._begun
        left = f", {_duration(spent / share - spent)} left" if share > 0 else ""
        what = f", {what}" if what else ""
        if self._is_terminal:
            bar = ("#" * round(share * WIDTH)).ljust(WIDTH, ".")
            line = f"{self._label} [{bar}] {share:4.0%}{left}{what}"
            print(f"\r{line[: _columns() - 1]}\x1b[K", end="", file=sys.stderr)
        else:
            print(f"{self._label}: {share:.0%}{left}{what}", file=sys.stderr)
        sys.stderr.flush()
        self._is_shown = True
        self._next = now + (0.1 if self._is_terminal else PAUSE)


class Phases:
    """Shows a bar for each phase of a longer task, one phase after the other."""

    def __init__(self) -> None:
        self._label = ""
        self._bar: Progress | None = None

    def update(self, phase: str, done: int, total: int, what: str = "") -> None:
        """Like `Progress.update`; a new `phase` begins a new bar."""
        if self._bar is None or phase != self._label:
            self.close()
            self._label, self._bar = phase, Progress(phase)
        self._bar.update(done, total, what)

    def close(self) -> None:
        """End the phase that is shown."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def _columns() -> int:
    """Return the width of stderr's terminal in characters; 80 if it is unknown."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
