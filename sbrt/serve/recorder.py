"""Records profiles of requests: the work of the lanes while each request had its seat."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .._core import EngineCore
from ..errors import EngineError
from ..trace.chrome import Recording
from ..trace.profile import Profile
from ..trace.spans import Round, Span
from .request import Request

PATIENCE = 0.05  # maximum seconds of one wait; Ctrl-C is handled between two waits


class Recorder:
    """Reads the trace that the C++ core keeps, and writes profiles. Callers must hold the engine's
    lock."""

    def __init__(self, core: EngineCore, *, keeps_trace: bool) -> None:
        """keeps_trace: True if a device keeps a trace even while no profile is in progress. A CPU
        always keeps a trace."""
        self._engine_core, self._keeps_trace = core, keeps_trace
        self._profile: Profile | None = None
        if keeps_trace:
            core.keep_trace(True)

    @property
    def is_traced(self) -> bool:
        """True if a device keeps a trace at this moment."""
        return self._keeps_trace or self._profile is not None

    @property
    def is_recording(self) -> bool:
        """True if a profile is in progress."""
        return self._profile is not None

    def spans(self, since_ns: int) -> list[Span]:
        """Wait until the lanes are idle; return the spans of their work since `since_ns`, oldest
        first for each lane."""
        wait_until_idle(self._engine_core)
        return [Span(*event) for event in self._engine_core.trace(since_ns)]

    def start(self, path: Path | None) -> None:
        """Begin a profile for the file `path`. Raises EngineError while another profile is in
        progress."""
        if self._profile is not None:
            raise EngineError("start_profile: expected no profile in progress, got one")
        wait_until_idle(self._engine_core)
        if not self._keeps_trace:
            self._engine_core.keep_trace(True)
        self._profile = Profile(path, self._engine_core.now_ns)
        self._engine_core.profile(True)

    def stop(self, running: Iterable[Request]) -> Path | None:
        """Write the profile; returns its path. Raises EngineError if no profile is in progress."""
        if self._profile is None:
            raise EngineError("stop_profile: expected start_profile before it, got none")
        for request in running:
            self.add(request)
        profile, self._profile = self._profile, None
        self._engine_core.profile(False)
        if not self._keeps_trace:
            self._engine_core.keep_trace(False)
        return profile.write()

    def add(self, request: Request) -> None:
        """Add the spans and rounds of a request so far to the profile. Does nothing if there is no
        profile, or if the request has no seat."""
        if self._profile is None or request.seat is None:
            return
        spans = self.spans(max(request.begun_ns, self._profile.begun_ns))
        # Spans can be assigned to rounds only for a request that ran alone.
        logged = [] if request.had_company else request.seat.rounds()
        rounds = [Round(*entry) for entry in logged]
        self._profile.add(Recording(f"{request.id}: {request.method.text}", spans, rounds))


def wait_until_idle(core: EngineCore) -> None:
    """Wait until the core is idle. A round may still run for a dropped request; its result is
    ignored."""
    while not core.idle(PATIENCE):
        pass
