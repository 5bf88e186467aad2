"""Lets the target answer many prompts and writes the answers to a file. A run that was stopped can
be resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine import Engine
from ...errors import InvalidInputError
from ...sampling import SamplingParams
from .chat import Chat
from .labels import LONGEST_PROMPT

HELD_OUT = 8  # every 8th prompt is held out: it is not used for training
# Maximum tokens of an answer for training, and of a held-out answer.
ANSWER, HELD_ANSWER = 192, 128
SAMPLED = 0.7  # temperature at which the second answer to a prompt is sampled
INVENTED = 120  # maximum tokens of an invented prompt
SHORTEST = 12  # minimum characters of an invented prompt
ROUND = 48  # number of prompts that are answered together

Tell = Callable[[int, int], None]  # (prompts done, total prompts)


@dataclass(frozen=True)
class Job:
    """An answer to make. text: the user's words; None: the target invents the user's words."""

    source: str
    index: int
    text: str | None
    temperature: float = 0.0


def jobs_of(prompts: Sequence[str] | None, count: int) -> tuple[list[Job], list[Job]]:
    """Return (jobs for training, held-out jobs). The prompts are the given ones, or `count`
    invented prompts.

    A given prompt for training is answered twice, greedily and sampled. Invented prompts are
    answered only greedily, because the target can invent any number of prompts.
    """
    texts: Sequence[str | None] = [None] * count if prompts is None else prompts
    name = "invented" if prompts is None else "prompts"
    held = [Job(name, i, text) for i, text in enumerate(texts) if i % HELD_OUT == 0]
    kept = [Job(name, i, text) for i, text in enumerate(texts) if i % HELD_OUT]
    if prompts is not None:
        kept += [Job(f"{name}-sampled", job.index, job.text, SAMPLED) for job in kept]
    return kept, held


@dataclass(frozen=True)
class Writer:
    """Writes answers with an engine that runs only the target."""

    engine: Engine
    chat: Chat

    def write(
        self,
        path: Path,
        jobs: Sequence[Job],
        longest: int,
        until: float,
        tell: Tell,
        least: int = 1,
    ) -> None:
        """Append answers of at most `longest` tokens to `path` until the file has an answer for
        every job.

        Stops early once time.monotonic() is past `until` and the file has `least` answers, but only
        between two groups of ROUND prompts. Jobs whose answer is in the file are skipped, and so
        are prompts that are too long.
        """
        done = _done(path)
        todo, written = [job for job in jobs if (job.source, job.index) not in done], len(done)
        with path.open("ab") as file:
            for first in range(0, len(todo), ROUND):
                tell(len(jobs) - len(todo) + first, len(jobs))
                if time.monotonic() > until and written >= least:
                    return
                for raw in self.answered(todo[first : first + ROUND], longest):
                    file.write((json.dumps(raw) + "\n").encode())
                    written += 1
                file.flush()
        tell(len(jobs), len(jobs))

    def answered(self, jobs: Sequence[Job], longest: int) -> Iterator[dict[str, Any]]:
        """Yield the lines of an answers file as dicts. Prompts that are too long are left out."""
        invented = self._invented(jobs)
        asked = [(job, ids) for job in jobs if (ids := self._prompt(job, invented))]
        params = [
            SamplingParams(temperature=job.temperature, max_tokens=longest, seed=job.index)
            for job, _ in asked
        ]
        if not asked:
            return
        found = self.engine.generate([ids for _, ids in asked], params)
        for (job, ids), output in zip(asked, found, strict=True):
            [answer] = output.outputs
            yield {
                "source": job.source, "index": job.index, "prompt_ids": ids,
                "ids": list(answer.token_ids), "temperature": job.temperature,
                "finish": answer.finish_reason,
            }  # fmt: skip

    def _invented(self, jobs: Sequence[Job]) -> dict[int, str]:
        """Let the target invent prompts; returns them by index.

        Prompts that reached INVENTED tokens without an end, or are too short, are left out.
        """
        wanted = [job.index for job in jobs if job.text is None]
        if not wanted:
            return {}
        params = [
            SamplingParams(temperature=1.0, top_p=0.95, max_tokens=INVENTED, seed=index)
            for index in wanted
        ]
        found = self.engine.generate([self._ids(self.chat.opening)] * len(wanted), params)
        texts = {}
        for index, output in zip(wanted, found, strict=True):
            [answer] = output.outputs
            if answer.finish_reason == "stop" and len(answer.text.strip()) >= SHORTEST:
                texts[index] = answer.text.strip()
        return texts

    def _prompt(self, job: Job, invented: dict[int, str]) -> list[int]:
        """Return the token ids of a job's prompt; [] if it has no prompt or the prompt is too
        long."""
        text = invented.get(job.index) if job.text is None else job.text
        if not text:
            return []
        try:
            ids = self._ids(self.chat.ask(text))
        except InvalidInputError:  # longer than the context
            return []
        return ids if len(ids) <= LONGEST_PROMPT else []

    def _ids(self, text: str) -> list[int]:
        tokenizer = self.engine.pair.tokenizer
        assert tokenizer is not None
        adds_special = not self.chat.has_template
        return tokenizer.encode(text, self.engine.max_model_len, adds_special=adds_special)


def _done(path: Path) -> set[tuple[str, int]]:
    """Return (source, index) of each answer in a file. An incomplete last line is removed from the
    file."""
    if not path.is_file():
        return set()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        return {(line["source"], line["index"]) for line in lines}
    except (ValueError, KeyError, TypeError):
        raise InvalidInputError(
            f"{path}: expected answers as JSON lines, got something else"
        ) from None
