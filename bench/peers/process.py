"""Talks to a peer in its own process and environment, with the requests that workers/serve.py
defines."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench.peers.lines import Answer, Batch, PeerError


class Worker:
    """Runs `script` with the interpreter `python`, and sends requests to this process.

    The process's standard error is kept: its last line goes into the error message if the process
    ends. Raises PeerError if the process cannot be started.
    """

    def __init__(self, python: Path, script: Path) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (close() closes it)
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        try:
            self._process = subprocess.Popen(
                [python, "-u", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=env | {"HF_HUB_OFFLINE": "1"},
                text=True,
            )
        except OSError as error:
            self._said.close()
            raise PeerError(f"{python}: expected to run, got {error.strerror}") from None

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send one request to the peer and return its answer. Raises PeerError if the peer fails or
        ends."""
        into, out = self._process.stdin, self._process.stdout
        assert into is not None
        assert out is not None
        try:
            into.write(json.dumps({"op": op, **arguments}) + "\n")
            into.flush()
            answer = json.loads(out.readline())
        except (BrokenPipeError, ValueError):
            raise PeerError(f"{op}: the process ended: {self._last_words()}") from None
        if not isinstance(answer, dict) or "error" in answer:
            said = answer["error"] if isinstance(answer, dict) else answer
            raise PeerError(f"{op}: {said}")
        return answer

    def generate(self, ids: list[int], max_tokens: int) -> Answer:
        """Decode greedily to max_tokens, past any stop token. Raises PeerError as `ask` does."""
        found = self.ask("generate", ids=ids, max_tokens=max_tokens)
        return Answer(found["ids"], found["seconds"], found["timed"], found.get("picking", 0.0))

    def generate_batch(self, prompts: list[list[int]], max_tokens: int) -> Batch:
        """Decode all prompts together, each as in `generate`. Raises PeerError as `ask` does."""
        found = self.ask("generate_batch", prompts=prompts, max_tokens=max_tokens)
        return Batch(found["ids"], found["seconds"], found["timed"], found["total"])

    def gap(self, ids: list[int], token: int) -> float:
        """Return how far the token's logit after `ids` is below the best logit. Raises
        PeerError."""
        return float(self.ask("gap", ids=ids, token=token)["gap"])

    def forward(self, rows: int, context: int, times: int) -> list[float] | str:
        """Return the us of each forward, or the reason why there are none. Raises PeerError as
        `ask` does."""
        found = self.ask("forward", rows=rows, context=context, times=times)
        return found["us"] if found["us"] is not None else str(found["why"])

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._said.close()

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else "it said nothing"
