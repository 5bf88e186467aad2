"""One call at a time: the lock of an engine, and who must not wait for it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from .errors import EngineError


class InnerCallError(EngineError):
    """A call of the engine was made inside another call by the same thread."""


class Turns:
    """The lock, and the threads that want it.

    A lock that a thread may take twice keeps nothing apart within that thread: a signal handler, a
    callback or a destructor would find a call half done. So a thread that has the lock is refused,
    but for where a call says that nothing is half done: `is_safe`. It says so while it waits for a
    round, which is where nearly all signal handlers run.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.waiting: set[int] = set()
        self.is_safe = False  # written by the owner of the lock
        self._process = os.getpid()

    @property
    def is_fork(self) -> bool:
        """Whether this process is a fork of the one that made the engine."""
        return os.getpid() != self._process

    @property
    def is_owned(self) -> bool:
        """Whether this thread has the lock. The lock itself knows, at every moment."""
        return bool(self.lock._is_owned())  # type: ignore[attr-defined]

    @property
    def is_inside(self) -> bool:
        """Whether this thread is in a call that may be half done."""
        return self.is_owned and not self.is_safe

    @property
    def is_lost(self) -> bool:
        """Whether the lock belongs to a thread that the ending interpreter has stopped for good."""
        if not sys.is_finalizing() or self.is_owned:
            return False
        if not self.lock.acquire(blocking=False):
            return True
        self.lock.release()  # no other thread can take it: none of them runs any more
        return False

    def give_way(self) -> None:
        """Let a waiting thread have the lock; taken again at once, it would never get it."""
        if self.waiting:
            time.sleep(0.001)

    def check(self) -> None:
        """Raises EngineError where this thread must not wait for the lock."""
        if self.is_inside:
            raise InnerCallError(
                "engine: expected a call from outside, got one inside another call of this thread "
                "(a signal handler, on_prefill or a destructor)"
            )
        if self.is_lost:
            raise EngineError("engine: expected a running interpreter, this one is ending")


class TakesTurns(Protocol):
    """An object whose methods exclude each other."""

    turns: Turns

    def check_process(self) -> None:
        """Raises EngineError in a fork, where the lock may belong to a thread that is not there."""

    def drop_late(self) -> None:
        """Do first what could not be done while the lock was taken."""


Self = TypeVar("Self", bound=TakesTurns)
Given, Found = ParamSpec("Given"), TypeVar("Found")


def in_turn(
    call: Callable[Concatenate[Self, Given], Found],
) -> Callable[Concatenate[Self, Given], Found]:
    """Run a method under the lock.

    Raises EngineError at once in a forked child, inside another call of this thread, and where the
    ending interpreter has stopped the thread that has the lock.
    """

    @wraps(call)
    def turn(self: Self, *args: Given.args, **kwargs: Given.kwargs) -> Found:
        self.check_process()
        turns, thread = self.turns, threading.get_ident()
        turns.check()
        is_inner = turns.is_owned  # then the outer call is where it is safe, and stays there
        turns.waiting.add(thread)
        try:
            with turns.lock:  # C code: Ctrl-C cannot come between taking the lock and the block
                turns.waiting.discard(thread)
                try:
                    turns.is_safe = False
                    self.drop_late()
                    return call(self, *args, **kwargs)
                finally:
                    turns.is_safe = is_inner
        finally:
            turns.waiting.discard(thread)

    return turn
