"""Prompts to train H-RAD on: heads of documented functions, as JSON lines for `sbrt hrad collect`.

    python tools/hrad_prompts.py prompts.jsonl --count 3000

They come from the demo pair's training files, so no bench's prompts are among them.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from demo_text import documented_functions, python_files


def main() -> None:
    """Write a random choice of prompts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=3000)
    args = parser.parse_args()
    heads: set[str] = set()
    for path in python_files():
        heads |= {head for head, _ in documented_functions(path.read_text(errors="ignore"))}
    chosen = random.Random(1).sample(sorted(heads), min(args.count, len(heads)))
    args.out.write_text("".join(json.dumps({"prompt": head}) + "\n" for head in chosen))
    print(f"{len(chosen)} of {len(heads)} prompts")


if __name__ == "__main__":
    main()
