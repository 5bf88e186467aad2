"""Writes trained models as Hugging Face folders, with a model card of losses and agreement."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from demo_model import CONTEXT, SHAPES, Decoder, Windows, continue_batch, load_model
from demo_text import END, VOCAB

TEXT = (
    "A target, a draft distilled on it and a deliberately poor draft, all Llama-shaped, trained\n"
    "on the Python files of the standard library (tests left out) and of torch."
)


@torch.no_grad()
def held_out_loss(model: Decoder, held: np.ndarray) -> float:
    """Mean cross-entropy, in nats per token, over 32 windows of the held-out text."""
    windows = Windows(held, CONTEXT, seed=0)
    losses = []
    for _ in range(8):
        ids = windows.batch(4)
        losses.append(
            F.cross_entropy(model(ids[:, :-1]).reshape(-1, VOCAB), ids[:, 1:].reshape(-1))
        )
    return torch.stack(losses).mean().item()


@torch.no_grad()
def agreement(target: Decoder, draft: Decoder, prompts: list[list[int]], steps: int = 64) -> float:
    """Share of the target's own greedy tokens that are the draft's first choice there."""
    same = total = 0
    for prompt in prompts:
        ids = continue_batch(target, torch.tensor([prompt]), steps, 0.0)
        guess = draft(ids[:, :-1]).argmax(-1)[0, len(prompt) - 1 :]
        same += int((guess == ids[0, len(prompt) :]).sum())
        total += steps
    return same / total


def config_of(name: str) -> dict[str, Any]:
    """The config.json for a model of SHAPES."""
    s = SHAPES[name]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": s.hidden,
        "intermediate_size": s.inner,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.hidden // s.heads,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }


def export_folder(work: Path, name: str, out: Path) -> Decoder:
    """Write the model `name` as a Hugging Face folder in bfloat16; returns the trained model."""
    from safetensors.torch import save_file

    model = load_model(work, name)
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{k}": v.to(torch.bfloat16) for k, v in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "tokenizer.json").write_bytes((work / "tokenizer.json").read_bytes())
    (out / "config.json").write_text(json.dumps(config_of(name), indent=2) + "\n")
    generation = {"bos_token_id": 0, "eos_token_id": 0}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "model_max_length": CONTEXT,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n")
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(torch.bfloat16))
    return model


def export(args: argparse.Namespace, held: np.ndarray) -> None:
    """Write every model trained so far, and the model card with its figures."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(args.work / "tokenizer.json"))
    prompts: list[list[int]] = []
    if args.prompts:
        rows = [json.loads(line) for line in Path(args.prompts).read_text().splitlines()]
        prompts = [tokenizer.encode(row["prompt"]).ids for row in rows[: args.limit]]
    models = {
        n: export_folder(args.work, n, args.out / n)
        for n in SHAPES
        if (args.work / f"{n}.pt").exists()
    }
    card = ["# The demo pair", "", TEXT, ""]
    card += [
        "| model | shape | parameters | tokens seen | held-out loss | agreement |",
        "|---|---|---|---|---|---|",
    ]
    for name, model in models.items():
        compared = prompts and name != "target"
        same = agreement(models["target"], model, prompts) if compared else math.nan
        tokens = torch.load(args.work / f"{name}.pt", weights_only=True)["tokens"]
        card.append(_row(name, model, tokens, held_out_loss(model, held), same))
    card += [
        "",
        "Agreement: share of tokens of the target's own greedy output (64 tokens a prompt,",
        "HumanEval) where the draft's first choice is the target's token. Loss: nats a token on 40",
        "files kept out of training.",
        "Made by `tools/train_demo.py`. Weights: Apache-2.0.",
    ]
    (args.out / "README.md").write_text("\n".join(card) + "\n")
    print("\n".join(card))


def _row(name: str, model: Decoder, tokens: int, loss: float, same: float) -> str:
    """A line of the card. same: agreement with the target, NaN if it was not measured."""
    count = sum(p.numel() for p in model.parameters())
    shape = ", ".join(f"{k} {v}" for k, v in asdict(SHAPES[name]).items())
    agree = "-" if math.isnan(same) else f"{same:.1%}"
    return f"| {name} | {shape} | {count:,} | {tokens:,} | {loss:.3f} | {agree} |"
