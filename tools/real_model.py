"""Fetches the real model, like `sbrt fetch smollm2`: `python tools/real_model.py`.

`--requantise Q8_0` also writes the same model in that type next to it, with llama.cpp's quantiser
(`make peers` sets it up). Prints the paths.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from sbrt.model import real_pair

TYPES = ("Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")  # types that people publish, other than Q4_1
PEER = Path(__file__).parents[1] / ".venv-peers" / "llama"
QUANTISE = """
import ctypes, sys, llama_cpp
source, out, kind = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
params.allow_requantize = True
sys.exit(llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)))
"""


def requantised(path: Path, kind: str) -> Path:
    """The model of `path` in another type, in the same folder, written unless it is there.

    Raises SystemExit without llama.cpp, CalledProcessError if it fails.
    """
    out = path.with_name(real_pair.FILE.replace("Q4_1", kind))
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
    parser.add_argument("--requantise", nargs="+", choices=TYPES, default=[], metavar="TYPE")
    args = parser.parse_args()
    path = real_pair.fetch(lambda *_: None)
    for found in [path, *(requantised(path, kind) for kind in args.requantise)]:
        print(found)


if __name__ == "__main__":
    main()
