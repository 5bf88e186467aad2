"""Lets only one call at a time into an engine. A thread that must not wait for the engine's lock
gets an error."""

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
    """Raised if a thread calls the engine inside another call that the same thread has made."""


class Turns:
    """The lock of an engine, and the threads that wait for it.

    A reentrant lock would not exclude a second call of the same thread. So a call by a thread that
    already holds the lock is refused. Only a destructor can make such a call. A signal handler
    cannot: where a handler may run, calls of the main thread go to another thread (aside.py).
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.waiting: set[int] = set()
        self._process = os.getpid()
        self._aside: Aside | None = None
        self._job: Job | None = None  # the job that holds the lock, if the thread aside runs it

    @property
    def is_fork(self) -> bool:
        """True if this process is a fork of the one that made the engine."""
        return os.getpid() != self._process

    @property
    def is_inside(self) -> bool:
        """True if this thread holds the lock. Only the lock itself knows this at every moment."""
        return bool(self.lock._is_owned())  # type: ignore[attr-defined]

    @property
    def is_lost(self) -> bool:
        """True if the lock is held by a thread that the interpreter has stopped. The interpreter
        stops threads when the process ends."""
        if not sys.is_finalizing() or self.is_inside:
            return False
        if not self.lock.acquire(blocking=False):
            return True
        self.lock.release()  # no other thread can take the lock: all of them are stopped
        return False

    def give_way(self) -> None:
        """Let a waiting thread take the lock. The waiting thread would starve if this thread took
        the lock again immediately."""
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
            # A signal handler may make a second Aside here, which does no harm.
            self._aside = Aside()
        return self._aside.run(lambda job: self._locked(call, job))

    @property
    def interruption(self) -> BaseException | None:
        """The error that a signal handler raised in the thread that waits for the running call;
        None if there is none."""
        return self._job.interruption if self._job is not None else None

    def _locked(self, call: Callable[[], Found], job: Job[Found] | None = None) -> Found:
        thread = threading.get_ident()
        self.waiting.add(thread)
        try:
            # Taking the lock is one call of C code: no signal handler runs between it and the
            # block.
            with self.lock:
                self.waiting.discard(thread)
                self._job = job
                try:
                    if job is not None:
                        job.claim()
                    return call()
                finally:
                    self._job = None  # drops the job, which holds a reference to the engine
        finally:
            self.waiting.discard(thread)


class TakesTurns(Protocol):
    """An object whose methods run one at a time."""

    turns: Turns

    def check_process(self) -> None:
        """Raises EngineError in a fork, where the thread that holds the lock may not exist."""

    def drop_late(self) -> None:
        """Do the work that had to wait because another call held the lock."""


Self = TypeVar("Self", bound=TakesTurns)
Given, Found = ParamSpec("Given"), TypeVar("Found")


def in_turn(
    call: Callable[Concatenate[Self, Given], Found],
) -> Callable[Concatenate[Self, Given], Found]:
    """Make a method run under the engine's lock.

    Inside another call of the same thread, and in a forked child, the method raises EngineError
    without waiting. It also raises EngineError if the interpreter is ending and has stopped the
    thread that holds the lock.
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
