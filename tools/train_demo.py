"""Train the demo pair: a target, a draft distilled on it, and a deliberately poor draft.

    python tools/train_demo.py --stage target --minutes 60
    python tools/train_demo.py --stage draft  --minutes 15
    python tools/train_demo.py --stage poor   --minutes 5
    python tools/train_demo.py --stage export

Every stage resumes from `--work` (default `build/demo`) where it was stopped. `--minutes` is the
length of the whole schedule, in minutes of work per thread. The learning rate depends on the share
of the schedule that is done. `export` writes three Hugging Face folders below `sbrt/demo`, measures
losses and agreement, and writes the model card.

Text: the Python files of the standard library (without tests) and of torch, read from the running
interpreter.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from demo_export import export
from demo_model import CONTEXT, SHAPES, Decoder, Windows, continue_batch, load_model
from demo_text import VOCAB, load_tokens
from torch import Tensor, nn


class Schedule:
    """A stage of fixed length that can be stopped and resumed: state, learning rate, progress."""

    def __init__(self, args: argparse.Namespace, model: Decoder, stage: str, peak: float) -> None:
        matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
        others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
        self.model, self.path, self.seconds = model, args.work / f"{stage}.pt", args.minutes * 60
        self.optimizers = [
            torch.optim.Muon(matrices, lr=peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=peak * 1.5, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.peaks = [peak, peak * 1.5]
        self.spent, self.step, self.tokens = 0.0, 0, 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.spent, self.step, self.tokens = state["spent"], state["step"], state["tokens"]
        self.last, self.saved = self.worked(), time.monotonic()

    @staticmethod
    def worked() -> float:
        """Seconds of work per thread: a busy or stopped machine does not shorten the schedule."""
        return time.process_time() / torch.get_num_threads()

    def running(self) -> bool:
        """True if the stage has time left."""
        return self.spent < self.seconds

    def update(self, loss: Tensor, tokens: int, label: str) -> None:
        """One step of both optimizers; prints and saves from time to time."""
        share = self.spent / self.seconds
        scale = min(1.0, (self.step + 1) / 40) * (
            0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))
        )
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        worked, now = self.worked(), time.monotonic()
        self.spent, self.last = self.spent + worked - self.last, worked
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        if self.step % 20 == 0:
            print(
                f"{label} step {self.step} tokens {self.tokens} loss {loss.item():.4f} "
                f"{self.spent / 60:.1f}/{self.seconds / 60:.0f} min",
                file=sys.stderr,
                flush=True,
            )
        if now - self.saved > 120 or not self.running():
            self.save()
            self.saved = now

    def save(self) -> None:
        """Write the state from which a stopped stage resumes."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "spent": self.spent,
            "step": self.step,
            "tokens": self.tokens,
        }
        torch.save(state, self.path.with_suffix(".tmp"))
        self.path.with_suffix(".tmp").replace(self.path)


def train_target(args: argparse.Namespace, train: np.ndarray) -> None:
    """Train the target on the text for the length of the stage."""
    model = Decoder(SHAPES["target"])
    schedule = Schedule(args, model, "target", args.lr or 3e-3)
    # Attention over short windows costs half; every fourth step uses the whole context.
    whole = Windows(train, CONTEXT, seed=schedule.step)
    halves = Windows(train, CONTEXT // 2, seed=schedule.step + 1)
    while schedule.running():
        ids = whole.batch(4) if schedule.step % 4 == 3 else halves.batch(8)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.float().reshape(-1, VOCAB), ids[:, 1:].reshape(-1))
        schedule.update(loss, ids[:, 1:].numel(), "target")


def train_student(args: argparse.Namespace, train: np.ndarray, name: str) -> None:
    """Distil: KL to the target's distribution, on its own greedy and sampled texts, and on text."""
    teacher = load_model(args.work, "target")
    for p in teacher.parameters():
        p.requires_grad_(False)
    model = Decoder(SHAPES[name])
    schedule = Schedule(args, model, name, args.lr or 4e-3)
    windows = Windows(train, 256, seed=100 + schedule.step)
    pool: list[Tensor] = []
    while schedule.running():
        if schedule.spent > 0.2 * schedule.seconds and schedule.step % 8 == 0 and len(pool) < 400:
            start = windows.batch(32)[:, :96]
            pool.append(continue_batch(teacher, start, 128, random.choice([0.0, 0.0, 0.8])))
        ids = windows.batch(16)
        if pool and schedule.step % 3:
            ids = random.choice(pool)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            with torch.no_grad():
                dist = F.softmax(teacher(ids[:, :-1]).float(), -1)
            logits = model(ids[:, :-1])
        loss = -(dist * F.log_softmax(logits.float(), -1)).sum(-1).mean()
        schedule.update(loss, ids[:, 1:].numel(), name)


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", choices=["target", "draft", "poor", "export"], required=True)
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="length of the stage's whole schedule"
    )
    parser.add_argument("--work", type=Path, default=Path("build/demo"))
    parser.add_argument("--out", type=Path, default=Path("sbrt/demo"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lr", type=float, default=None)
    parser.add_argument(
        "--bf16", action="store_true", help="autocast to bf16 (fast where the CPU has it)"
    )
    parser.add_argument(
        "--prompts", help="JSON lines with `prompt`, to measure agreement at export"
    )
    parser.add_argument("--limit", type=int, default=40)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    train, held = load_tokens(args.work)
    if args.stage == "target":
        train_target(args, train)
    elif args.stage == "export":
        export(args, held)
    else:
        train_student(args, train, args.stage)


if __name__ == "__main__":
    main()
