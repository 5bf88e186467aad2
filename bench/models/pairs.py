"""Pairs that are measured on a device.

They are the demo pair, the demo pair with an inflated target, and random pairs. A random target has
the sizes of a real model, and weights that are drawn on the device. Its draft is the target's own
first layers, in the same memory. The contributions of the target's other layers are scaled down. So
the draft is right often but not always. Both models cost as much as real models.
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
# Number of layers of the draft of an 8B target. They have as many bytes as a 1B model.
DRAFT_LAYERS = 3
# The draft lacks the target's later layers. What these layers add is multiplied by this factor.
# With 0.03, the target's token is the draft's most probable token in about three of four cases.
DAMPED = 0.03
POSITIONS = 131_072  # context length of a random pair, as in the configurations of Llama 3.x


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the sampling flags of the benches on a device. Without these flags, decoding is
    greedy."""
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P")
    parser.add_argument("--top-k", type=int, default=0, metavar="K")


def sampling_of(args: argparse.Namespace, seed: int) -> SamplingParams:
    """Return the sampling parameters that the flags of `add_sampling` and --max-tokens give.

    Raises InvalidInputError if a parameter is invalid.
    """
    return SamplingParams(
        temperature=args.temperature, top_p=args.top_p, top_k=args.top_k, seed=seed,
        max_tokens=args.max_tokens, ignore_eos=True,
    )  # fmt: skip


def is_random(name: str) -> bool:
    """Return True for a random pair, which has neither a checkpoint nor a tokenizer."""
    return name in MODELS


def engine_config(name: str, device: str, method: str, **more: object) -> EngineConfig:
    """Return the config of an engine for a pair of NAMES.

    more: other fields of EngineConfig. Raises InvalidInputError for an unknown name.
    """
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
    """Return a random pair on the config's device, or None if the engine reads a checkpoint.

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
    """Return the config of a random target."""
    return replace(config_of(name), max_positions=POSITIONS)


def random_pair(
    config: ModelConfig,
    device: torch.device,
    eager: bool = False,
    draft_layers: int = DRAFT_LAYERS,
    early: bool = False,
    rows: int | None = 16,
) -> Pair:
    """Return a target with the sizes in `config`, and a draft made of the target's first layers.

    The weights are the same in each call. rows: number of rows of the verification graph; None for
    graphs of several sizes.
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
    """Scale down what all layers except the first `kept` add to the residual stream."""
    for layer in weights.layers[kept:]:
        for linear in (layer.o, layer.down):
            linear.weight.mul_(DAMPED)


def first_layers(weights: Weights, layers: int) -> Weights:
    """Return a model that shares the memory of `weights` but has only the first `layers` layers."""
    fewer = replace(weights.config, layers=layers)
    return replace(weights, config=fewer, layers=weights.layers[:layers])


def prompts_of(name: str) -> Callable[[int], str | list[int]]:
    """Return a function that gives the i-th prompt: text, or ids if there is no tokenizer."""
    if not is_random(name):
        return lambda i: f"# {i}\n{BUILT_IN[i % len(BUILT_IN)]}"
    import random

    vocab = shape_of(name).vocab

    def ids(i: int) -> list[int]:
        generator = random.Random(i)
        return [generator.randrange(vocab) for _ in range(generator.randint(8, 200))]

    return ids
