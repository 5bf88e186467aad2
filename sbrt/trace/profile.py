"""Writes the requests between Engine.start_profile and stop_profile as one trace file."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from ..config import EngineConfig, Folder, folder
from ..errors import InvalidInputError
from ..files import check_writable
from .chrome import Recording, write_chrome

_NUMBERS = count(1)  # numbers for file names, because two engines may share a folder


class Profile:
    """The requests recorded so far. path: the file to write; None: no file is written, and only the
    device's profiler records."""

    def __init__(self, path: Path | None, begun_ns: int) -> None:
        self.path = path
        self.begun_ns = begun_ns
        self._recordings: list[Recording] = []

    def add(self, recording: Recording) -> None:
        """Add a request, or the recorded part of it. Does nothing if no file will be written."""
        if self.path is not None and recording.spans:
            self._recordings.append(recording)

    def write(self) -> Path | None:
        """Write the file, if there is one, with one process per request. Returns the file's path.
        Raises OSError."""
        if self.path is not None:
            write_chrome(self.path, self._recordings, self.begun_ns)
        return self.path


def profile_path(config: EngineConfig, given: Folder | None) -> Path | None:
    """Return the path of a profile's file: the given path, or a new one in `profile_dir`.

    Returns None on a device if neither is given. Raises InvalidInputError.
    """
    if given is None and config.profile_dir is None:
        if config.on_cuda:
            return None
        raise InvalidInputError(
            "start_profile: expected a file to write, or EngineConfig.profile_dir, got neither"
        )
    if given is None:
        into = Path(config.profile_dir or "")
        try:
            into.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInputError(
                f"profile_dir: expected a folder that can be made, got {str(into)!r}: "
                f"{error.strerror}"
            ) from None
        path = into / f"sbrt-{os.getpid()}-{next(_NUMBERS)}.json"
    else:
        path = folder("start_profile", given)
    check_writable("start_profile", path)
    return path
