"""Profiles of requests: the work of the lanes while each request had its seat."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .._core import EngineCore
from ..errors import EngineError
from ..trace.chrome import Recording
from ..trace.profile import Profile
from ..trace.spans import Round, Span
from .request import Request

PATIENCE = 0.05  # seconds between two chances for Ctrl-C


class Recorder:
    """The trace of a core, and the profile in progress if there is one. Needs the engine's
    lock."""

    def __init__(self, core: EngineCore, *, keeps_trace: bool) -> None:
        """keeps_trace: a device keeps its trace without a profile, too. The CPU always does."""
        self._engine_core, self._keeps_trace = core, keeps_trace
        self._profile: Profile | None = None
        if keeps_trace:
            core.keep_trace(True)

    @property
    def is_traced(self) -> bool:
        """True if a device keeps times."""
        return self._keeps_trace or self._profile is not None

    @property
    def is_recording(self) -> bool:
        """True if a profile is in progress."""
        return self._profile is not None

    def spans(self, since_ns: int) -> list[Span]:
        """The work of the lanes since then, oldest first per lane. Waits until they are idle."""
        wait_until_idle(self._engine_core)
        return [Span(*event) for event in self._engine_core.trace(since_ns)]

    def start(self, path: Path | None) -> None:
        """Record requests into `path`. Raises EngineError while another profile is in progress."""
        if self._profile is not None:
            raise EngineError("start_profile: expected no profile in progress, got one")
        wait_until_idle(self._engine_core)
        if not self._keeps_trace:
            self._engine_core.keep_trace(True)
        self._profile = Profile(path, self._engine_core.now_ns)
        self._engine_core.profile(True)

    def stop(self, running: Iterable[Request]) -> Path | None:
        """Write what was recorded; returns the path. Raises EngineError without a profile in
        progress."""
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
        """Add a request that has a seat, as far as it has run, to the profile if there is one."""
        if self._profile is None or request.seat is None:
            return
        spans = self.spans(max(request.begun_ns, self._profile.begun_ns))
        # Spans can be assigned to rounds only for a request that ran alone.
        logged = [] if request.had_company else request.seat.rounds()
        rounds = [Round(*entry) for entry in logged]
        self._profile.add(Recording(f"{request.id}: {request.method.text}", spans, rounds))


def wait_until_idle(core: EngineCore) -> None:
    """Wait for a round that may still run for a dropped request; its result is ignored."""
    while not core.idle(PATIENCE):
        pass
