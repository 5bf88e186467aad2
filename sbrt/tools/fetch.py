"""`sbrt fetch smollm2`: downloads the target of the SmolLM2 pair into the user's cache."""

from __future__ import annotations

import argparse

from ..model import real_pair
from .progress import Progress


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names what to fetch."""
    parser.add_argument("name", choices=(real_pair.NAME,), help="SmolLM2-135M-Instruct in Q4_1")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Download the target's file and print its path."""
    bar = Progress(f"fetching {args.name}")
    try:
        path = real_pair.fetch(bar.update)
    finally:
        bar.close()
    print(path)
    return 0
