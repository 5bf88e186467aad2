"""Standard streams as a command finds them: open or closed, full, in any encoding.

Within `prepared` a command prints as always. Characters that the encoding lacks become escapes.
What stderr cannot take is dropped, because messages must not end the work. What stdout cannot take
raises OSError with one sentence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

from .errors import InvalidInputError


class Shown:
    """A text stream that shows as much as the one under it can. None: it is closed."""

    def __init__(self, stream: TextIO | None, *, is_needed: bool) -> None:
        """is_needed: raise OSError where nothing can be written."""
        self._stream = None if stream is None or getattr(stream, "closed", False) else stream
        self._is_needed = is_needed
        self.failure: OSError | None = None  # the first one; nothing is written after it

    @property
    def is_open(self) -> bool:
        """Whether anything can be written."""
        return self._stream is not None

    @property
    def closed(self) -> bool:
        """As of a stream: a command may call another one."""
        return not self.is_open

    @property
    def encoding(self) -> str:
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def can_show(self, text: str) -> bool:
        """Whether its encoding has every character."""
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            return False
        return True

    def write(self, text: str) -> int:
        """Write `text`; returns its length. Raises OSError."""
        if not self.can_show(text):
            text = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        if self._stream is None:
            if self._is_needed:
                raise OSError("standard output: expected an open one, got a closed one")
        else:
            self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """As of a stream. Raises OSError, also for what could not be written before."""
        if self._stream is not None:
            self._try(self._stream.flush)

    def isatty(self) -> bool:
        """As of a stream; False where it is closed."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """As of a stream. Raises OSError where there is none."""
        if self._stream is None:
            raise OSError("standard stream: expected an open one, got a closed one")
        return self._stream.fileno()

    def give_up(self) -> None:
        """Let what the stream still holds go nowhere: Python's exit would try to write it again."""
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)

    def _try(self, call: Any, *given: str) -> None:
        if self.failure is None:
            try:
                call(*given)
            except BrokenPipeError as error:
                self.failure = error
            except OSError as error:
                self.failure = OSError(
                    f"standard output: expected one that takes what is written, got {error}"
                )
        if self.failure is not None and self._is_needed:
            raise self.failure from None


@contextmanager
def prepared() -> Iterator[None]:
    """Standard streams that a command may print to, whatever the caller has left open."""
    _fill_descriptors()
    out, messages = Shown(sys.stdout, is_needed=True), Shown(sys.stderr, is_needed=False)
    with redirect_stdout(out), redirect_stderr(messages):  # type: ignore[type-var]
        try:
            yield
        finally:
            for stream in (out, messages):
                if stream.failure is not None:
                    stream.give_up()


def has_stdout() -> bool:
    """Whether standard output is open."""
    return sys.stdout.is_open if isinstance(sys.stdout, Shown) else sys.stdout is not None


def check_stdout(name: str) -> None:
    """Refuse before the work what could not be shown after it. Raises InvalidInputError."""
    if not has_stdout():
        raise InvalidInputError(f"{name}: expected an open standard output, got a closed one")


def has_every_character(text: str) -> bool:
    """Whether standard output can show `text` as it is."""
    return sys.stdout.can_show(text) if isinstance(sys.stdout, Shown) else True


def read_stdin(name: str) -> bytes:
    """All of standard input. Raises InvalidInputError where it is closed; OSError."""
    if sys.stdin is None or sys.stdin.closed:
        raise InvalidInputError(f"{name}: expected an open standard input, got a closed one")
    if sys.stdin.isatty():
        print("reading the prompt from standard input, up to Ctrl-D", file=sys.stderr)
    return bytes(sys.stdin.buffer.read())


def _fill_descriptors() -> None:
    """Open what the caller closed, or the next file would be taken for a standard stream."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
