"""Distils a target into a draft. The LM head is first fitted by regression, then everything is
trained by gradients."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...model.checkpoint import EMBED
from .batches import Batch, Examples
from .labels import Answer, Reader
from .network import Network
from .packing import fits

if TYPE_CHECKING:
    from numpy.typing import NDArray

PEAK = 1e-3  # largest learning rate
LEAST = 0.02  # final learning rate, divided by PEAK
WARM_UP = 20  # number of steps in which the learning rate rises
ROUNDED_FROM = 0.6  # share of the schedule after which matrices are rounded to 4 bits
SAVE_EVERY = 120.0  # seconds between two saves of the state
TOP = 4  # number of the draft's most likely tokens for Agreement.among
RIDGE = 1e-3  # weight of the ridge penalty, divided by the mean diagonal element of the Gram matrix
REGRESSED = 20_000  # number of positions that the head is fitted on


@dataclass(frozen=True)
class Agreement:
    """The agreement of draft and target, and the loss.

    first: share of positions at which the target's token is the draft's first choice. among: share
    of positions at which it is among the draft's TOP first choices. loss: the mean loss. count:
    number of positions.
    """

    first: float
    among: float
    loss: float
    count: int


@dataclass(frozen=True)
class Report:
    """The progress of a training run.

    share: the part of the schedule that is done. held_out: agreement by source of the answers,
    where the key `all` means all answers; None if the agreement was not measured for this report.
    """

    share: float
    step: int
    loss: float
    tokens_per_second: float
    held_out: dict[str, Agreement] | None


Tell = Callable[[Report], None]


def half(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which products are bfloat16, and sums and everything else float32."""
    return torch.autocast(device.type, torch.bfloat16)


def loss_of(network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return (loss, logits). The loss is the mean cross entropy with the target's most likely
    tokens."""
    hidden = network.hidden(batch.tokens)
    logits = network.logits(hidden.flatten(0, 1)[batch.rows])
    logs = F.log_softmax(logits, -1)
    picked = logs.gather(1, batch.ids.clamp(min=0))
    return -(batch.chances * picked).sum(1).mean(), logits


def fit_head(
    network: Network,
    answers: Sequence[Answer],
    reader: Reader,
    ids: NDArray[np.int64],
    tell: Callable[[int, int], None],
) -> None:
    """Fit the draft's LM head by ridge regression: from the draft's hidden states to the target's
    logits.

    The target's logits are its last hidden state times its LM head. So the regression in effect
    finds a linear map from the draft's to the target's hidden states. The draft's LM head becomes
    the product of this map and rows of the target's LM head. ids: the draft's vocabulary, as ids of
    the target.
    """
    device = network.weights[EMBED].device
    width = network.config.hidden
    gram = torch.zeros(width, width, dtype=torch.float64, device=device)
    cross = torch.zeros(width, len(ids), dtype=torch.float32, device=device)
    seen = 0
    for answer in answers:
        if seen >= REGRESSED:
            break
        tokens = torch.tensor([answer.prompt + answer.ids[:-1]], device=device)
        with torch.no_grad(), half(device):
            x = network.hidden(tokens)[0, len(answer.prompt) - 1 :].float()
        logits = np.concatenate([piece[:, ids] for _, piece in reader.read(answer)])
        y = torch.from_numpy(logits - logits.mean(1, keepdims=True)).to(device)
        gram += (x.T @ x).double()
        cross += x.T @ y
        seen += len(x)
        tell(min(seen, REGRESSED), REGRESSED)
    gram += torch.eye(width, dtype=torch.float64, device=device) * gram.diagonal().mean() * RIDGE
    head = torch.linalg.solve(gram, cross.double()).T.float().contiguous()
    network.head = head


class Trainer:
    """Trains for a fixed time. A run that is stopped at any moment can be resumed."""

    def __init__(self, network: Network, path: Path, seconds: float, peak: float = PEAK) -> None:
        self.network, self.path, self.seconds, self.peak = network, path, seconds, peak
        weights = {n: w for n, w in network.weights.items() if n != EMBED}
        for weight in weights.values():
            weight.requires_grad_(True)
        matrices = [w for w in weights.values() if w.dim() == 2]
        others = [w for w in weights.values() if w.dim() != 2]
        groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, peak, (0.9, 0.95), weight_decay=0.05, fused=True)
        self.rounds = fits(network.config)
        self.spent, self.step, self.epoch, self.at = 0.0, 0, 0, 0
        if path.is_file():
            self._load()

    @property
    def share(self) -> float:
        """The share of the schedule that is done."""
        return min(1.0, self.spent / self.seconds)

    def run(self, examples: Examples, held_out: Examples, every: float, tell: Tell) -> None:
        """Train until the schedule ends. Measure agreement on `held_out` at intervals of `every`
        seconds."""
        device = self.network.weights[EMBED].device
        measured, saved, begun = self.spent, self.spent, time.monotonic()
        while self.spent < self.seconds:
            order = examples.epoch(self.epoch)
            while self.at < len(order):
                batch = examples.batch(order[self.at], device)
                self.at += 1
                loss = self._update(batch)
                now = time.monotonic()
                rate = len(batch.rows) / (now - begun)
                self.spent, begun = self.spent + now - begun, now
                found = None
                if self.spent >= measured + every:
                    found, measured = agreement(self.network, held_out), self.spent
                    begun = time.monotonic()
                tell(Report(self.share, self.step, loss, rate, found))
                if self.spent >= saved + SAVE_EVERY:
                    self.save()
                    saved = self.spent
                if self.spent >= self.seconds:
                    break
            else:
                self.epoch, self.at = self.epoch + 1, 0
        self.network.quantised = self.rounds
        self.save()

    def _update(self, batch: Batch) -> float:
        self.network.quantised = self.rounds and self.share >= ROUNDED_FROM
        warm = min(1.0, (self.step + 1) / WARM_UP)
        fall = LEAST + (1 - LEAST) * (1 + math.cos(math.pi * self.share)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * warm * fall
        with half(batch.tokens.device):
            loss, _ = loss_of(self.network, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        weights = [w for group in self.optimizer.param_groups for w in group["params"]]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def save(self) -> None:
        """Write the state of the training to `path`, whole or not at all."""
        state = {
            "weights": {n: w for n, w in self.network.weights.items() if n != EMBED},
            "optimizer": self.optimizer.state_dict(),
            "spent": self.spent, "step": self.step, "epoch": self.epoch, "at": self.at,
        }  # fmt: skip
        part = self.path.with_name(f"{self.path.name}.part")
        torch.save(state, part)
        os.replace(part, self.path)

    def _load(self) -> None:
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, weight in state["weights"].items():
                self.network.weights[name].copy_(weight)
        self.optimizer.load_state_dict(state["optimizer"])
        self.spent, self.step = state["spent"], state["step"]
        self.epoch, self.at = state["epoch"], state["at"]


@torch.no_grad()
def agreement(network: Network, examples: Examples) -> dict[str, Agreement]:
    """Return the agreement by source of the answers. The key `all` means all answers."""
    device = network.weights[EMBED].device
    first, among, losses, sources = [], [], [], []
    for batch in examples.batches(0, device):
        with half(device):
            _, logits = loss_of(network, batch)
        wanted = batch.ids[:, :1]
        top = logits.topk(min(TOP, logits.shape[1])).indices
        first.append((top[:, :1] == wanted).any(1).cpu())
        among.append((top == wanted).any(1).cpu())
        logs = F.log_softmax(logits, -1).gather(1, batch.ids.clamp(min=0))
        losses.append(-(batch.chances * logs).sum(1).cpu())
        sources += batch.sources
    values = [torch.cat(each).float().numpy() for each in (first, among, losses)]
    named = np.array(sources)

    def over(mask: NDArray[np.bool_]) -> Agreement:
        means = [float(each[mask].mean()) for each in values]
        return Agreement(means[0], means[1], means[2], int(mask.sum()))

    found = {name: over(named == name) for name in sorted(set(sources))}
    return found | {"all": over(np.ones(len(named), bool))}
