"""Pairs that are measured on a device: the demo pair, the same at a larger cost, and sizes of real
models with weights drawn there.

The draft of a random target is the target's own first layers. The contributions of its other layers
are damped. So the draft is often right and often wrong, at the costs of real models. Both share one
memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sbrt import SamplingParams
from sbrt.config import EngineConfig, SpeculativeConfig
from sbrt.errors import InvalidInputError
from sbrt.model.config import ModelConfig
from sbrt.model.demo_pair import demo_folder
from sbrt.serve.pair import Pair
from sbrt.tools.prompts import BUILT_IN

from .real import MODELS, config_of

if TYPE_CHECKING:
    import torch

    from sbrt.gpu.weights import Weights

DEMO = "demo"
INFLATED = "demo-1g"  # a name of bench.models.checkpoints
NAMES = (DEMO, INFLATED, *MODELS)
DRAFT_LAYERS = 3  # in an 8B target: a 1B reads as many bytes
DAMPED = 0.03  # then about three tokens in four are the draft's first choice
POSITIONS = 131_072  # in a random pair: the value in configurations of Llama 3.x, which engines use


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add flags for the sampling of these benches. Without them the largest logit is chosen."""
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P")
    parser.add_argument("--top-k", type=int, default=0, metavar="K")


def sampling_of(args: argparse.Namespace, seed: int) -> SamplingParams:
    """Sampling parameters from the flags of `add_sampling` and --max-tokens. Raises
    InvalidInputError."""
    return SamplingParams(
        temperature=args.temperature, top_p=args.top_p, top_k=args.top_k, seed=seed,
        max_tokens=args.max_tokens, ignore_eos=True,
    )  # fmt: skip


def is_random(name: str) -> bool:
    """True if the pair has neither a checkpoint nor a tokenizer."""
    return name in MODELS


def engine_config(name: str, device: str, method: str, **more: object) -> EngineConfig:
    """The config of an engine for a pair of NAMES. Raises InvalidInputError on another name."""
    if name not in NAMES:
        raise InvalidInputError(f"--pair: expected one of {', '.join(NAMES)}, got {name}")
    if is_random(name):
        target: Path = Path(name)
        draft: Path | None = Path(f"{name}-draft")
        more["skip_tokenizer_init"] = True
    else:
        from .checkpoints import given

        found = given(name)
        target, draft = found.target, demo_folder("draft")
    speculative = SpeculativeConfig(model=draft, method=method)
    return EngineConfig(target, device=device, speculative=speculative, **more)  # type: ignore[arg-type]


def pair_of(name: str, config: EngineConfig) -> Pair | None:
    """Weights of a random pair on the config's device; None if the engine reads a checkpoint.

    Raises InvalidInputError for a random pair on a CPU.
    """
    if not is_random(name):
        return None
    if not config.on_cuda:
        raise InvalidInputError(
            f"--pair: expected a demo pair on device {config.device}, got {name}"
        )
    import torch

    return random_pair(
        shape_of(name), torch.device("cuda", config.device_index), config.enforce_eager,
        early=config.programmatic_launch, rows=16 if config.mode == "exact" else None,
    )  # fmt: skip


def shape_of(name: str) -> ModelConfig:
    """Sizes of a random target."""
    return replace(config_of(name), max_positions=POSITIONS)


def random_pair(
    config: ModelConfig,
    device: torch.device,
    eager: bool = False,
    draft_layers: int = DRAFT_LAYERS,
    early: bool = False,
    rows: int | None = 16,
) -> Pair:
    """A target of these sizes, and a draft made of its first layers. The same weights each time.

    rows: of the verification graph; None: of several sizes.
    """
    import torch

    from sbrt.gpu import ops as sets
    from sbrt.gpu.lane import model_with
    from sbrt.gpu.weights import random_weights

    weights = random_weights(config, torch.bfloat16, device)
    damp(weights, draft_layers)
    ops = sets.TRITON if device.type == "cuda" else sets.TORCH
    ops = sets.early(ops, early)
    target, draft = (
        model_with(each, ops, rows=rows, eager=eager)
        for each in (weights, first_layers(weights, draft_layers))
    )
    return Pair(target, draft, None, frozenset(), config.vocab, "bfloat16")


def damp(weights: Weights, kept: int) -> None:
    """Scale down the contributions of all but the first `kept` layers to the residual stream."""
    for layer in weights.layers[kept:]:
        for linear in (layer.o, layer.down):
            linear.weight.mul_(DAMPED)


def first_layers(weights: Weights, layers: int) -> Weights:
    """The same weights with fewer layers."""
    fewer = replace(weights.config, layers=layers)
    return replace(weights, config=fewer, layers=weights.layers[:layers])


def prompts_of(name: str) -> Callable[[int], str | list[int]]:
    """The i-th prompt of a pair: text, or ids if there is no tokenizer."""
    if not is_random(name):
        return lambda i: f"# {i}\n{BUILT_IN[i % len(BUILT_IN)]}"
    import random

    vocab = shape_of(name).vocab

    def ids(i: int) -> list[int]:
        generator = random.Random(i)
        return [generator.randrange(vocab) for _ in range(generator.randint(8, 200))]

    return ids
