"""The peers: their environments, dtypes and modes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.models.checkpoints import BUILD, Given
from bench.peers.lines import GGUF, Line, PeerError, Unit
from bench.peers.memory import GIB, needed
from bench.peers.process import Worker
from sbrt.model.gguf import is_gguf

ENVIRONMENTS = Path(__file__).parents[2] / ".venv-peers"
WORKERS = Path(__file__).parent / "workers"
DRAFTING = ("assistant_model", "draft_model")  # modes that also load the draft


@dataclass(frozen=True)
class Peer:
    """Another engine, and the lines of the table that it has.

    worker: the script that runs the engine. environment: a folder that `make peers` makes; None:
    the environment of this process. plain: dtypes of plain decoding. speculative: (mode, dtypes),
    for checkpoints with a draft. file_modes: modes on a GGUF file, with dtype gguf; empty: the
    engine cannot read such files. in_batches: modes that can decode several prompts together.
    copies: largest number of copies of the weights in memory while the engine loads. process: bytes
    of everything else.
    """

    name: str
    worker: str
    environment: str | None
    plain: tuple[str, ...]
    speculative: tuple[tuple[str, tuple[str, ...]], ...]
    file_modes: tuple[str, ...] = ()
    in_batches: tuple[str, ...] = ()
    copies: float = 2.0
    process: float = 0.5 * GIB

    def units(self, given: Given, dtypes: Sequence[str], threads: int) -> Iterator[Unit]:
        """Yield one unit for each line on a checkpoint whose dtype is one of `dtypes`."""
        for line in self._lines(given):
            if line.dtype in dtypes:
                has_draft = line.mode in DRAFTING
                size = needed(given, line.dtype, has_draft, self.copies, self.process)
                yield Unit([line], size, partial(self.open, line, given, threads))

    def reads(self, given: Given) -> bool:
        """Return True if the engine can open this kind of checkpoint."""
        return bool(self.file_modes) or not is_gguf(given.target)

    def dtypes(self, given: Given) -> tuple[str, ...]:
        """Return the dtypes of the engine's lines on a checkpoint."""
        return tuple(dict.fromkeys(line.dtype for line in self._lines(given)))

    def _lines(self, given: Given) -> Iterator[Line]:
        if is_gguf(given.target):
            for mode in self.file_modes:
                if given.draft or mode not in DRAFTING:
                    yield self._line(given, GGUF, mode)
            return
        for dtype in self.plain:
            yield self._line(given, dtype, "plain")
        for mode, dtypes in self.speculative if given.draft else ():
            for dtype in dtypes:
                yield self._line(given, dtype, mode)

    def _line(self, given: Given, dtype: str, mode: str) -> Line:
        return Line(self.name, given.name, dtype, mode, in_batches=mode in self.in_batches)

    def python(self) -> Path:
        """Return the interpreter of the engine's environment.

        Raises PeerError, which names what is missing, if the environment is not set up.
        """
        if self.environment is None:
            for module in ("torch", "transformers"):
                if importlib.util.find_spec(module) is None:
                    raise PeerError(
                        f"not set up: expected {module} in {sys.prefix}; try make peers"
                    )
            return Path(sys.executable)
        folder = ENVIRONMENTS / self.environment
        if not (folder / ".done").is_file():
            raise PeerError(f"not set up: expected its environment in {folder}; try make peers")
        return folder / "bin" / "python"

    def open(self, line: Line, given: Given, threads: int) -> None:
        """Start the worker as the line's source. If that fails, set the line's error."""
        worker = None
        try:
            worker = Worker(self.python(), WORKERS / self.worker)
            line.version = worker.ask(
                "open",
                folder=str(given.target),
                draft=str(given.draft) if given.draft else None,
                dtype=line.dtype,
                mode=line.mode,
                threads=threads,
                build=str(BUILD / "peers" / given.key),
            )["version"]
            line.source = worker
        except PeerError as error:
            line.fail(str(error))
            if worker is not None:
                worker.close()


LLAMA = Peer(
    "llama-cpp-python",
    "llama_worker.py",
    "llama",
    ("float32", "float16", "bfloat16", "q8_0"),
    (("prompt_lookup", ("float16", "q8_0")), ("draft_model", ("float16", "q8_0"))),
    file_modes=("plain", "prompt_lookup", "prompt_lookup_bare", "draft_model"),
    in_batches=("plain",),
)
PEERS = (
    Peer(
        "transformers",
        "transformers_worker.py",
        None,
        ("float32", "bfloat16"),
        (("assistant_model", ("float32", "bfloat16")),),
        copies=1.5,  # the file's weights, and a second half while they are converted
        process=0.8 * GIB,
    ),
    LLAMA,
    Peer(
        "openvino-genai",
        "openvino_worker.py",
        "openvino",
        ("float32", "bfloat16"),
        (("draft_model", ("float32", "bfloat16")),),
        file_modes=("plain", "prompt_lookup"),
        # The model as loaded, the compiled model, and a second compiled model for timed forwards.
        copies=3.0,
        process=0.8 * GIB,
    ),
)
NAMES = tuple(peer.name for peer in PEERS)
