"""Lets one call at a time into an engine. Some threads must not wait for its lock: they are
refused."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial, wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from ..errors import EngineError
from .aside import Aside, Job, may_be_interrupted


class InnerCallError(EngineError):
    """A call of the engine was made inside another call by the same thread."""


class Turns:
    """The lock, and the threads that wait for it.

    A lock that one thread may take twice would exclude nothing within that thread. So a call by a
    thread that has the lock is refused. Only a destructor can make such a call. A signal handler
    cannot: if one may run, calls of the main thread go to another thread (aside.py).
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.waiting: set[int] = set()
        self._process = os.getpid()
        self._aside: Aside | None = None
        self._job: Job | None = None  # the job that has the lock, if the thread aside runs it

    @property
    def is_fork(self) -> bool:
        """True if this process is a fork of the one that made the engine."""
        return os.getpid() != self._process

    @property
    def is_inside(self) -> bool:
        """True if this thread has the lock. Only the lock itself knows that at every moment."""
        return bool(self.lock._is_owned())  # type: ignore[attr-defined]

    @property
    def is_lost(self) -> bool:
        """True if the lock belongs to a thread that the ending interpreter has stopped."""
        if not sys.is_finalizing() or self.is_inside:
            return False
        if not self.lock.acquire(blocking=False):
            return True
        self.lock.release()  # no other thread can take it: none of them runs any more
        return False

    def give_way(self) -> None:
        """Let a waiting thread take the lock. It would starve if this thread took it again
        immediately."""
        if self.waiting:
            time.sleep(0.001)

    def check(self) -> None:
        """Raises EngineError if this thread must not wait for the lock."""
        if self.is_inside:
            raise InnerCallError(
                "engine: expected a call from outside, got one inside another call of this thread "
                "(a destructor)"
            )
        if self.is_lost:
            raise EngineError("engine: expected a running interpreter, this one is ending")

    def run(self, call: Callable[[], Found]) -> Found:
        """Run `call` under the lock, in a thread that no signal handler interrupts."""
        if not may_be_interrupted():
            return self._locked(call)
        if self._aside is None:
            self._aside = Aside()  # a handler that runs here may make another; no harm
        return self._aside.run(lambda job: self._locked(call, job))

    @property
    def interruption(self) -> BaseException | None:
        """The error that a signal handler raised in the thread that waits for the running call."""
        return self._job.interruption if self._job is not None else None

    def _locked(self, call: Callable[[], Found], job: Job[Found] | None = None) -> Found:
        thread = threading.get_ident()
        self.waiting.add(thread)
        try:
            with self.lock:  # C code: Ctrl-C cannot come between taking the lock and the block
                self.waiting.discard(thread)
                self._job = job
                try:
                    if job is not None:
                        job.claim()
                    return call()
                finally:
                    self._job = None  # the job holds a reference to the engine
        finally:
            self.waiting.discard(thread)


class TakesTurns(Protocol):
    """An object whose methods exclude each other."""

    turns: Turns

    def check_process(self) -> None:
        """Raises EngineError in a fork, where the thread that has the lock may not exist."""

    def drop_late(self) -> None:
        """Do what had to wait because the lock was taken."""


Self = TypeVar("Self", bound=TakesTurns)
Given, Found = ParamSpec("Given"), TypeVar("Found")


def in_turn(
    call: Callable[Concatenate[Self, Given], Found],
) -> Callable[Concatenate[Self, Given], Found]:
    """Make a method run under the lock.

    The method raises EngineError without waiting in a forked child and inside another call of this
    thread. It does so, too, if the ending interpreter has stopped the thread that has the lock.
    """

    def under_lock(self: Self, *args: Given.args, **kwargs: Given.kwargs) -> Found:
        self.drop_late()
        return call(self, *args, **kwargs)

    @wraps(call)
    def turn(self: Self, *args: Given.args, **kwargs: Given.kwargs) -> Found:
        self.check_process()
        self.turns.check()
        return self.turns.run(partial(under_lock, self, *args, **kwargs))

    return turn
