"""Runs the stages of `sbrt draft make`. A stage that was stopped can be resumed.

OUT/work holds everything except the draft: the answers, their labels, the state of the training.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ... import check
from ...config import EngineConfig
from ...engine import Engine
from ...errors import InvalidInputError
from ...files import write_file
from ...model.checkpoint import Checkpoint
from ...model.config import ModelConfig, read_json
from ...model.fingerprint import fingerprint_of
from ...serve.pair import Pair, load_pair
from ..progress import Progress
from .answers import ANSWER, HELD_ANSWER, HELD_OUT, Job, Writer, jobs_of
from .chat import Chat
from .folder import write_draft
from .labels import LONGEST_PROMPT, Answer, Labels, Reader, labelled, read_answers
from .shape import first_layers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .train import Report

SEATS = 16  # number of answers that are generated together
LONGEST = 1024  # maximum tokens of a prompt and its answer together
ANSWERING = 0.4  # time limit for answers, divided by the time of training
MEASURES = 12  # number of measurements on held-out answers in a training run
PAUSE = 30.0  # seconds between two printed lines of a training run
MOST_BYTES = 2**32  # maximum bytes of a file of answers
SPARE = 64  # minimum number of answers for a training run


@dataclass(frozen=True)
class Plan:
    """The draft to make. prompts: the texts of the prompts; None: the target invents `count`
    prompts.

    answers, held_out: files of existing answers, which are used instead of prompts.
    """

    target: Checkpoint
    out: Path
    config: ModelConfig
    minutes: float
    prompts: Sequence[str] | None
    count: int
    threads: int
    device: str = "cpu"
    answers: Path | None = None
    held_out: Path | None = None

    @property
    def work(self) -> Path:
        """The folder in which the stages keep their results."""
        return self.out / "work"


@dataclass(frozen=True)
class Data:
    """Answers with their labels. ids: for each row of the draft's LM head, the token's id in the
    target; ascending."""

    answers: list[Answer]
    labels: list[Labels]
    held_out: list[Answer]
    held_labels: list[Labels]
    ids: NDArray[np.int64]


def open_work(plan: Plan) -> None:
    """Make OUT/work, or check that the work there belongs to the same draft.

    Raises InvalidInputError, naming what differs.
    """
    path = plan.work / "plan.json"
    for file in (plan.answers, plan.held_out):
        if file is not None and plan.work.resolve() in file.resolve().parents:
            raise InvalidInputError(
                f"--answers, --held-out: expected files outside {plan.work}, got {file}"
            )
    ours = {
        "target": fingerprint_of(plan.target),
        "layers": plan.config.layers,
        "width": plan.config.hidden,
        "vocab": plan.config.draft_vocab,
        "prompts": _prompts_of(plan),
    }
    if check.is_file(path):
        theirs = read_json(path)
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise InvalidInputError(
                    f"--out: expected the work of this draft in {plan.work}, got that of "
                    f"{key} {check.show(theirs.get(key))}, not {check.show(value)}"
                )
        say(f"going on in {plan.work}")
        return
    if check.is_file(plan.out / "config.json"):
        raise InvalidInputError(
            f"--out: expected a folder without a model, or one with its work, got {plan.out}"
        )
    try:
        plan.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"--out: expected a folder that can be made, got {check.show(str(plan.out))}: "
            f"{error.strerror}"
        ) from None
    write_file(path, (json.dumps(ours, indent=1) + "\n").encode())


def _prompts_of(plan: Plan) -> str:
    """Describe the prompts by digests of their files or texts, or by the number of prompts to
    invent."""
    if plan.answers is not None:
        files = [file for file in (plan.answers, plan.held_out) if file is not None]
        digests = [sha256(check.read_bytes(file, MOST_BYTES)).hexdigest()[:32] for file in files]
        return f"answers {' '.join(digests)}"
    if plan.prompts is None:
        return f"{plan.count} invented"
    return sha256("\0".join(plan.prompts).encode()).hexdigest()


def kept_shape(out: Path) -> tuple[int | None, int | None]:
    """Return (layers, width) of the draft whose work is in `out`; (None, None) if there is no
    work."""
    path = out / "work" / "plan.json"
    if not check.is_file(path):
        return None, None
    kept = read_json(path)
    layers = check.integer(f"{path}, layers", kept.get("layers"), 1)
    return layers, check.integer(f"{path}, width", kept.get("width"), 1)


def is_work_of(out: Path, target: Checkpoint) -> bool:
    """True if the work in `out` is for a draft of this target."""
    path = out / "work" / "plan.json"
    return check.is_file(path) and read_json(path).get("target") == fingerprint_of(target)


def make_answers(plan: Plan) -> None:
    """Write answers.jsonl and held-out.jsonl, unless both are complete already."""
    finished = plan.work / "answers.done"
    if finished.is_file():
        return
    if plan.answers is not None:
        take_answers(plan, plan.answers)
        finished.touch()
        return
    chat = Chat(plan.target.folder)
    kept, held = jobs_of(plan.prompts, plan.count)
    if plan.prompts is None:
        _ = chat.opening  # raises without a template
    until = time.monotonic() + 60 * plan.minutes * ANSWERING
    with _engine(plan.target.folder, plan.threads) as engine:
        writer = Writer(engine, chat)
        for name, jobs, longest, least in (
            ("held-out", held, HELD_ANSWER, 1),
            ("answers", kept, ANSWER, SPARE),
        ):
            with closing(Progress(f"the target writes {name}")) as bar:
                writer.write(plan.work / f"{name}.jsonl", jobs, longest, until, bar.update, least)
    finished.touch()


def take_answers(plan: Plan, path: Path) -> None:
    """Copy existing answers. Without a file of held-out answers, every 8th answer is held out."""
    lines = check.read_bytes(path, MOST_BYTES).splitlines(keepends=True)
    if plan.held_out is None:
        kept = [line for i, line in enumerate(lines) if i % HELD_OUT]
        held = lines[::HELD_OUT]
    else:
        kept = lines
        held = check.read_bytes(plan.held_out, MOST_BYTES).splitlines(keepends=True)
    write_file(plan.work / "answers.jsonl", b"".join(kept))
    write_file(plan.work / "held-out.jsonl", b"".join(held))


def answers_to(jobs: Sequence[Job], target: Path, threads: int) -> list[Answer]:
    """Return the target's answers to the prompts of `jobs`. Raises InvalidInputError if no prompt
    fits."""
    chat = Chat(target)
    with _engine(target, threads) as engine, closing(Progress("the target answers")) as bar:
        writer, found = Writer(engine, chat), []
        for first in range(0, len(jobs), SEATS):
            bar.update(first, len(jobs))
            for raw in writer.answered(jobs[first : first + SEATS], HELD_ANSWER):
                found.append(Answer(raw["source"], raw["index"], raw["prompt_ids"], raw["ids"]))
    if not found:
        raise InvalidInputError(
            f"prompts: expected one of at most {LONGEST_PROMPT} tokens, got {len(jobs)} longer ones"
        )
    return found


def _engine(target: Path, threads: int) -> Engine:
    """Make an engine of the target alone that runs SEATS prompts together."""
    pair = load_pair(EngineConfig(target, num_threads=threads))
    longest = min(LONGEST, pair.target.max_positions)
    config = EngineConfig(
        target, num_threads=threads, max_num_seqs=SEATS, max_model_len=longest, speculative=None
    )
    return Engine(config, pair=pair)


def make_data(plan: Plan, pair: Pair) -> Data:
    """Read the answers and label them. Raises InvalidInputError if there are too few answers."""
    from .batches import vocabulary

    answers = read_answers(plan.work / "answers.jsonl")
    held_out = read_answers(plan.work / "held-out.jsonl")
    if len(answers) < SPARE or not held_out:
        raise InvalidInputError(
            f"{plan.work}: expected at least {SPARE} answers and a held-out one, "
            f"got {len(answers)} and {len(held_out)}"
        )

    def reader() -> Reader:
        return reader_of(plan, pair)

    with closing(Progress("labelling")) as bar:
        labels = labelled(plan.work / "labels", answers, reader, bar.update)
        held_labels = labelled(plan.work / "held-out-labels", held_out, reader, bar.update)
    path = plan.work / "ids.npy"
    if not path.is_file():
        ids = vocabulary(labels, plan.config.draft_vocab, pair.vocab, sorted(pair.eos))
        _save(path, ids)
    return Data(answers, labels, held_out, held_labels, np.load(path, allow_pickle=False))


def reader_of(plan: Plan, pair: Pair) -> Reader:
    """Make the reader of the target's logits."""
    return Reader(pair, min(LONGEST, plan.config.max_positions), plan.threads)


def train(plan: Plan, pair: Pair, data: Data) -> None:
    """Train the draft and write its folder."""
    import torch

    from .batches import Examples
    from .network import Network
    from .train import Trainer, fit_head

    torch.set_num_threads(plan.threads)
    device = torch.device(plan.device)
    # There are fewer ids than the plan asks for if the tokenizer is small.
    config = replace(plan.config, draft_vocab=len(data.ids))
    start = first_layers(plan.target, config)
    weights = {name: torch.from_numpy(values).to(device) for name, values in start.items()}
    network = Network(config, weights, min(LONGEST, plan.config.max_positions))
    head = plan.work / "head.npy"
    if not head.is_file():
        with closing(Progress("fitting the head")) as bar:
            shuffled = np.random.default_rng(0).permutation(len(data.answers))
            some = [data.answers[i] for i in shuffled]
            fit_head(network, some, reader_of(plan, pair), data.ids, bar.update)
        _save(head, network.head.cpu().numpy())
    network.head = torch.from_numpy(np.load(head, allow_pickle=False)).to(device)
    to_draft = np.full(plan.config.vocab, -1, np.int64)
    to_draft[data.ids] = np.arange(len(data.ids))
    examples = Examples(data.answers, data.labels, to_draft)
    held_out = Examples(data.held_out, data.held_labels, to_draft)
    trainer = Trainer(network, plan.work / "state.pt", plan.minutes * 60)
    if trainer.step:
        say(f"going on at step {trainer.step}, {trainer.share:.0%} of the schedule")
    trainer.run(examples, held_out, plan.minutes * 60 / MEASURES, _Teller())
    found = {name: w.detach().float().cpu().numpy() for name, w in network.weights.items()}
    shares = plan.config.hidden == plan.target.config.hidden
    size = write_draft(plan.out, config, found, data.ids, shares_embedding=shares)
    say(f"wrote {plan.out}, {size / 1e6:.1f} MB")


def load_target(plan: Plan) -> Pair:
    """Load the target alone."""
    return load_pair(EngineConfig(plan.target.folder, num_threads=plan.threads))


def say(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr, flush=True)


def _save(path: Path, values: NDArray[np.generic]) -> None:
    data = io.BytesIO()
    np.save(data, values, allow_pickle=False)
    write_file(path, data.getvalue())


class _Teller:
    """Prints a line every PAUSE seconds, and after each measurement of agreement. The line has the
    mean loss since the last line, the speed, and the agreement if it was just measured."""

    def __init__(self) -> None:
        self._next = 0.0
        self._losses: list[float] = []

    def __call__(self, report: Report) -> None:
        self._losses.append(report.loss)
        now = time.monotonic()
        if report.held_out is None and now < self._next:
            return
        loss = sum(self._losses) / len(self._losses)
        line = (
            f"training: {report.share:.0%}, step {report.step}, loss {loss:.3f}, "
            f"{report.tokens_per_second:.0f} tokens/s"
        )
        if report.held_out is not None:
            every = report.held_out["all"]
            line += f"; held out: first choice {every.first:.3f}, among 4 {every.among:.3f}"
        say(line)
        self._losses.clear()
        self._next = now + PAUSE
