"""Trains an H-RAD classifier with torch, in minutes on two cores.

Equal samples and seeds give a file of equal bytes. For this, training uses one thread, because the
number of threads changes the order of additions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InvalidInputError
from ...model.hrad import CLASSES, WIDE, WIDTHS, Classifier, check_finite, counted, shapes
from ...model.safetensors_file import bfloat16, widened
from .data import HELD_OUT, Samples

if TYPE_CHECKING:
    from torch import Tensor, nn

EPOCHS, BATCH = 20, 32
DROPOUT, RATE, DECAY = 0.2, 3e-4, 0.01


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch.

    loss, held_out_loss: mean cross-entropy on training samples and on held-out samples.
    """

    number: int
    loss: float
    held_out_loss: float
    held_out_accuracy: float


@dataclass(frozen=True)
class Plan:
    """Settings of a training run. weighted: True if a rare class has the same total weight as a
    common one.

    drop_cost: the class "nothing" is predicted only if its probability is at least drop_cost times
    the probability of any other class. A tail that is wrongly dropped costs time; a tail that is
    wrongly kept costs rollbacks.
    keep_cost: the same factor for the class "all". The logarithms of both costs are subtracted from
    biases of the last layer.
    """

    seed: int = 0
    epochs: int = EPOCHS
    rate: float = RATE
    weighted: bool = False
    drop_cost: float = 1.0
    keep_cost: float = 1.0


def train(
    samples: Samples, path: Path, plan: Plan, say: Callable[[Epoch], None] | None = None
) -> tuple[Classifier, Epoch]:
    """Return the classifier of the epoch with the smallest held-out loss, and that epoch's results.

    No file is written. Raises InvalidInputError if torch is missing, or if there are too few
    prompts to hold some out.
    """
    import numpy as np

    torch = require()
    held = torch.from_numpy(samples.held_out())
    if held.all() or not held.any():
        raise InvalidInputError(
            f"samples: expected some of at least {HELD_OUT} prompts, so that every "
            f"{HELD_OUT}th is held out, got {len(samples.digests)} prompts"
        )
    x = torch.from_numpy(samples.features).float()
    y = torch.from_numpy(samples.labels).long()
    counts = counted(samples.labels[~samples.held_out()])
    with _reproducible(plan.seed):
        net = _network(samples.origin.hidden)
        weight = torch.tensor(_weights(counts)) if plan.weighted else None
        criterion = torch.nn.CrossEntropyLoss(weight)
        best, state = _epochs(net, criterion, (x[~held], y[~held]), (x[held], y[held]), plan, say)
    tensors = dict(zip(shapes(samples.origin.hidden), state, strict=True))
    tensors[WIDE] = widened(bfloat16(tensors[WIDE]))
    tensors["b3"] = tensors["b3"] - np.log([plan.drop_cost, 1, plan.keep_cost]).astype(np.float32)
    for name, values in tensors.items():
        check_finite(f"training, tensor {name}", values)
    return Classifier(path, samples.origin, tensors, counts, samples.data), best


def require() -> Any:
    """Return the module torch. Raises InvalidInputError if it is not installed."""
    try:
        import torch
    except ImportError:
        raise InvalidInputError("sbrt hrad train: expected torch installed, found none") from None
    return torch


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Inside this context, use one thread and random numbers from `seed`. Both settings are
    restored afterwards."""
    import torch

    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _network(hidden: int) -> nn.Sequential:
    from torch import nn

    first, second, third = [shape for name, shape in shapes(hidden).items() if name[0] == "w"]
    return nn.Sequential(
        *(nn.Linear(first[1], WIDTHS[0]), nn.ReLU(), nn.Dropout(DROPOUT)),
        *(nn.Linear(second[1], WIDTHS[1]), nn.ReLU(), nn.Dropout(DROPOUT)),
        nn.Linear(third[1], WIDTHS[2]),
    )


def _weights(counts: tuple[int, int, int]) -> list[float]:
    """Return the weights of the classes. A class without samples gets the weight of a class with
    one sample."""
    return [sum(counts) / (len(CLASSES) * max(1, count)) for count in counts]


def _epochs(
    net: nn.Sequential,
    criterion: nn.Module,
    part: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor],
    plan: Plan,
    say: Callable[[Epoch], None] | None,
) -> tuple[Epoch, list[Any]]:
    """Return the results of the best epoch, and its tensors in the order of a classifier's file."""
    import torch

    optimizer = torch.optim.AdamW(net.parameters(), lr=plan.rate, weight_decay=DECAY)
    best: Epoch | None = None
    state: list[Any] = []
    for number in range(1, plan.epochs + 1):
        loss = _epoch(net, criterion, optimizer, part)
        epoch = Epoch(number, loss, *_judge(net, criterion, held))
        if say:
            say(epoch)
        if best is None or epoch.held_out_loss < best.held_out_loss:
            best, state = epoch, [p.detach().numpy().copy() for p in net.parameters()]
    if best is None:
        raise InvalidInputError("epochs: expected at least 1, got 0")
    return best, state


def _epoch(
    net: nn.Sequential,
    criterion: nn.Module,
    optimizer: Any,
    part: tuple[Tensor, Tensor],
) -> float:
    """Train on all training samples in a random order; returns the mean loss of the batches."""
    import torch

    net.train()
    x, y = part
    losses = []
    for rows in torch.randperm(len(x)).split(BATCH):
        optimizer.zero_grad()
        loss = criterion(net(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def _judge(
    net: nn.Sequential, criterion: nn.Module, held: tuple[Tensor, Tensor]
) -> tuple[float, float]:
    """Return loss and accuracy on the held-out samples."""
    import torch

    net.eval()
    x, y = held
    with torch.no_grad():
        logits = net(x)
    return criterion(logits, y).item(), (logits.argmax(1) == y).float().mean().item()
