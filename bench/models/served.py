"""Runs `sbrt serve` in a separate process."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from sbrt import InvalidInputError


@contextmanager
def served(words: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Run `sbrt serve` with the given flags; yields its host and port.

    Raises InvalidInputError if the server does not start.
    """
    with serving(words) as (_, host, port):
        yield host, port


@contextmanager
def serving(words: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """Run `sbrt serve` with the given flags; yields its process, host and port.

    Raises InvalidInputError if the server does not start.
    """
    command = [sys.executable, "-m", "sbrt", "serve", "--port", "0", "--no-access-log", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stderr is not None
            said = ""
            for said in child.stderr:
                if found := re.search(r"at http://([\d.]+):(\d+)$", said.rstrip()):
                    # The thread empties the pipe. A full pipe would block the server.
                    threading.Thread(target=_pass_on, args=(child.stderr,), daemon=True).start()
                    yield child, found.group(1), int(found.group(2))
                    return
            raise InvalidInputError(f"sbrt serve: expected an address, got: {said.strip()}")
        finally:
            child.terminate()


def _pass_on(lines: IO[str]) -> None:
    """Copy the server's standard error to this process's standard error."""
    for line in lines:
        sys.stderr.write(line)
