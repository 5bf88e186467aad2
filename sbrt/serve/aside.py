"""A thread that runs calls for the main thread, because no signal handler runs in it.

Python runs a signal handler in the main thread, between any two bytecodes. A call that is half done
there could not let the handler's own call of the engine in. Elsewhere a call is always done whole,
and the handler's call waits for it as that of any other thread does.

A handler may interrupt every line here that the main thread runs, and come back to the same line.
So nothing here takes a lock that the thread aside needs too: `queue.SimpleQueue`, lists and
`_thread` are C code, which a handler cannot interrupt half way.
"""

from __future__ import annotations

import _signal  # signal.getsignal makes an enumeration of each answer: ten times slower
import _thread
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

Found = TypeVar("Found")

# Seconds. A signal that comes just before a wait begins does not end it; its handler runs at the
# next look.
LOOK = 0.05
_OTHERS = tuple(sorted(set(signal.valid_signals()) - {signal.SIGINT}))


def may_be_interrupted() -> bool:
    """Whether a signal handler of the program's own may run in this thread.

    Python's for SIGINT does no harm: it raises KeyboardInterrupt and calls nobody.
    """
    if _thread.get_ident() != threading.main_thread().ident or sys.is_finalizing():
        return False
    own = _signal.getsignal(signal.SIGINT)
    if callable(own) and own is not signal.default_int_handler:
        return True
    return any(map(callable, map(_signal.getsignal, _OTHERS)))


class _Forgotten(Exception):
    """The job was taken back before it began."""


class Job(Generic[Found]):
    """A call that the thread aside makes, and the main thread waits for.

    interruption: what a signal handler raised in the main thread meanwhile; the call may look.
    """

    def __init__(self, call: Callable[[Job[Found]], Found]) -> None:
        self._call = call
        self._claims = [True]  # whoever takes it decides whether the call is made
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        self._results: list[Found] = []
        self._error: BaseException | None = None
        self._is_done = False
        self.interruption: BaseException | None = None

    def claim(self) -> None:
        """The call begins, unless the main thread has taken it back: then this ends it."""
        if not self._take_claim():
            raise _Forgotten

    def run(self) -> None:
        """In the thread aside: make the call, keep what it gives or raises."""
        try:
            self._results.append(self._call(self))
        except BaseException as error:
            self._error = error
        self._is_done = True
        self._ended.release()

    def wait(self) -> Found:
        """In the main thread: what the call gives or raises, or what a signal handler raises.

        A call that has begun is waited for all the same.
        """
        while not self._is_done:
            try:
                self._ended.acquire(timeout=LOOK)
            except BaseException as error:
                if self._take_claim():
                    raise
                self.interruption = error
        error = self.interruption or self._error
        if error is None:
            return self._results[0]
        try:
            raise error
        finally:
            del error, self  # the traceback holds this frame

    def _take_claim(self) -> bool:
        try:
            return self._claims.pop()
        except IndexError:
            return False


class Aside:
    """The thread; it ends some time after this object."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        # Thread.start takes a lock of `threading`, which an interrupted start would keep.
        _thread.start_new_thread(_work, (self._jobs,))
        ends = weakref.finalize(self, self._jobs.put, None)
        ends.atexit = False  # functions registered with atexit may still call the engine

    def run(self, call: Callable[[Job[Found]], Found]) -> Found:
        """Make the call there; what it gives or raises, or what a signal handler raises here."""
        job = Job(call)
        self._jobs.put(job)
        return job.wait()


def _work(jobs: SimpleQueue[Job[Any] | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        del job  # it holds the engine
