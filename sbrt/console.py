"""Lets commands use standard streams in any state: open, closed or full, in any encoding.

Inside `with prepared()` a command prints as usual. Characters that the encoding lacks become
escapes. Text that stderr cannot take is dropped, because messages must not end the work. Text that
stdout cannot take raises OSError with one sentence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

from .errors import InvalidInputError


class Shown:
    """A text stream that writes to `stream`. Characters that the encoding lacks are written as
    escapes. If `stream` is None, this is a closed stream."""

    def __init__(self, stream: TextIO | None, *, is_needed: bool) -> None:
        """is_needed: writing raises OSError if the stream cannot take the text."""
        self._stream = None if stream is None or getattr(stream, "closed", False) else stream
        self._is_needed = is_needed
        self.failure: OSError | None = None  # the first failure; nothing is written after it

    @property
    def is_open(self) -> bool:
        """True if the stream is open."""
        return self._stream is not None

    @property
    def closed(self) -> bool:
        """True if the stream is closed; the opposite of `is_open`. Python's streams have this
        property too, and `Shown` reads it when it wraps a `Shown`."""
        return not self.is_open

    @property
    def encoding(self) -> str:
        """The encoding of the stream; utf-8 if it has none."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def can_show(self, text: str) -> bool:
        """True if the stream's encoding has every character of `text`."""
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
        """Flush the stream. Raises OSError, also for earlier text that could not be written."""
        if self._stream is not None:
            self._try(self._stream.flush)

    def isatty(self) -> bool:
        """True if the stream is a terminal; False if it is closed."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Return the file descriptor. Raises OSError if there is none."""
        if self._stream is None:
            raise OSError("standard stream: expected an open one, got a closed one")
        return self._stream.fileno()

    def give_up(self) -> None:
        """Discard text that the stream still holds: Python would try to write it again at exit."""
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
                    f"standard output: expected one that accepts text, got {error}"
                )
        if self.failure is not None and self._is_needed:
            raise self.failure from None


@contextmanager
def prepared() -> Iterator[None]:
    """Give a command standard streams that it may print to, in whatever state the caller left
    them."""
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
    """True if standard output is open."""
    return sys.stdout.is_open if isinstance(sys.stdout, Shown) else sys.stdout is not None


def check_stdout(name: str) -> None:
    """Raise InvalidInputError if standard output is closed. Called before a command does its
    work."""
    if not has_stdout():
        raise InvalidInputError(f"{name}: expected an open standard output, got a closed one")


def has_every_character(text: str) -> bool:
    """True if standard output can show `text` unchanged."""
    return sys.stdout.can_show(text) if isinstance(sys.stdout, Shown) else True


def read_stdin(name: str) -> bytes:
    """Read all of standard input. Raises InvalidInputError if it is closed, OSError if reading
    fails."""
    if sys.stdin is None or sys.stdin.closed:
        raise InvalidInputError(f"{name}: expected an open standard input, got a closed one")
    if sys.stdin.isatty():
        print("reading the prompt from standard input, up to Ctrl-D", file=sys.stderr)
    return bytes(sys.stdin.buffer.read())


def _fill_descriptors() -> None:
    """Open descriptors that the caller closed. Otherwise the next file that is opened would become
    a standard stream."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
