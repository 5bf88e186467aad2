"""The thread aside is a second thread that runs engine calls for the main thread. No signal handler
runs in the thread aside.

Python runs signal handlers in the main thread, between any two bytecodes. If the main thread were
inside a call of the engine, a second call by the handler would have to be refused. In the thread
aside every call runs to its end. A call that the handler makes waits for that end, like a call of
any other thread.

A handler may interrupt the main thread at every line of this module, and run the same line itself.
So no line of this module takes a lock that the thread aside also needs. `queue.SimpleQueue`, lists
and `_thread` are C code, which a handler cannot interrupt.
"""

from __future__ import annotations

import _signal  # signal.getsignal is ten times slower: it builds an enum member for each answer
import _thread
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

Found = TypeVar("Found")

# Maximum time of one wait, in seconds. A signal that arrives just before a wait begins does not end
# that wait. Then the signal's handler runs only after the wait.
LOOK = 0.05
_OTHERS = tuple(sorted(set(signal.valid_signals()) - {signal.SIGINT}))


def may_be_interrupted() -> bool:
    """True if a signal handler that the program installed may run in this thread.

    Python's own handler of SIGINT does not count: it raises KeyboardInterrupt and makes no call.
    """
    if _thread.get_ident() != threading.main_thread().ident or sys.is_finalizing():
        return False
    own = _signal.getsignal(signal.SIGINT)
    if callable(own) and own is not signal.default_int_handler:
        return True
    return any(map(callable, map(_signal.getsignal, _OTHERS)))


class _Forgotten(Exception):
    """Raised if the main thread took the job back before its call began."""


class Job(Generic[Found]):
    """A call that the thread aside makes while the main thread waits for its result.

    interruption: the error that a signal handler raised in the main thread during the call. The
    call may read this error.
    """

    def __init__(self, call: Callable[[Job[Found]], Found]) -> None:
        self._call = call
        # The list holds one claim. The main thread and the thread aside both try to take it. The
        # thread aside makes the call only if it gets the claim.
        self._claims = [True]
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        self._results: list[Found] = []
        self._error: BaseException | None = None
        self._is_done = False
        self.interruption: BaseException | None = None

    def claim(self) -> None:
        """Begin the call. Raises _Forgotten if the main thread has taken the job back."""
        if not self._take_claim():
            raise _Forgotten

    def run(self) -> None:
        """Make the call and store its result or error. Runs in the thread aside."""
        try:
            self._results.append(self._call(self))
        except BaseException as error:
            self._error = error
        self._is_done = True
        self._ended.release()

    def wait(self) -> Found:
        """Return the call's result, or raise the error of the call or of a signal handler.

        Runs in the main thread. If a signal handler raises after the call has begun, its error is
        raised when the call has ended.
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
            del error, self  # avoids a reference cycle: the error's traceback holds this frame

    def _take_claim(self) -> bool:
        try:
            return self._claims.pop()
        except IndexError:
            return False


class Aside:
    """Owns the thread aside, which ends some time after this object is dropped."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        # Not Thread.start: that function takes a lock of `threading`, and would never release the
        # lock if a handler interrupted it.
        _thread.start_new_thread(_work, (self._jobs,))
        ends = weakref.finalize(self, self._jobs.put, None)
        ends.atexit = False  # functions registered with atexit may still call the engine

    def run(self, call: Callable[[Job[Found]], Found]) -> Found:
        """Make the call in the thread aside; returns its result, or raises as `Job.wait` does."""
        job = Job(call)
        self._jobs.put(job)
        return job.wait()


def _work(jobs: SimpleQueue[Job[Any] | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        del job  # otherwise `job` would keep the engine alive until the next job
