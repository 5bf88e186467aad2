"""The demo pair's decoder in plain torch: Llama's parameter names, tied embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from demo_text import VOCAB
from torch import Tensor, nn

CONTEXT = 1024


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-shaped decoder with tied embeddings."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int


SHAPES = {
    "target": Shape(256, 6, 8, 4, 768),
    "draft": Shape(128, 2, 4, 2, 288),
    "poor": Shape(48, 1, 2, 1, 128),
}


class Block(nn.Module):
    """One layer: attention, then the MLP, each with a norm before it."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        d = s.hidden // s.heads
        self.s, self.d = s, d
        self.input_layernorm = nn.RMSNorm(s.hidden, eps=1e-5)
        self.post_attention_layernorm = nn.RMSNorm(s.hidden, eps=1e-5)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(s.hidden, s.heads * d, bias=False),
                "k_proj": nn.Linear(s.hidden, s.kv_heads * d, bias=False),
                "v_proj": nn.Linear(s.hidden, s.kv_heads * d, bias=False),
                "o_proj": nn.Linear(s.heads * d, s.hidden, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(s.hidden, s.inner, bias=False),
                "up_proj": nn.Linear(s.hidden, s.inner, bias=False),
                "down_proj": nn.Linear(s.inner, s.hidden, bias=False),
            }
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, past: list[Tensor] | None) -> Tensor:
        """The next [batch, time, hidden]; `past` holds keys and values and grows."""
        b, t, _ = x.shape
        h = self.input_layernorm(x)
        q, k, v = (
            self.self_attn[name](h).view(b, t, -1, self.d).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if past is not None:
            if past:
                k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
            past[:] = [k, v]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1, enable_gqa=True)
        x = x + self.self_attn["o_proj"](y.transpose(1, 2).reshape(b, t, -1))
        h = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [batch, heads, time, dim]; the halves of a head form the pairs."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Decoder(nn.Module):
    """Logits [batch, time, VOCAB] of token ids [batch, time]; the parameter names are Llama's."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.embed_tokens = nn.Embedding(VOCAB, s.hidden)
        self.layers = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = nn.RMSNorm(s.hidden, eps=1e-5)
        d = s.hidden // s.heads
        inv = 10000.0 ** (-torch.arange(0, d, 2).float() / d)
        angles = torch.outer(torch.arange(CONTEXT).float(), inv).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 if p.shape[0] == VOCAB else p.shape[1] ** -0.5 / 2)
        for block in self.layers:
            nn.init.zeros_(block.self_attn["o_proj"].weight)
            nn.init.zeros_(block.mlp["down_proj"].weight)

    def forward(self, ids: Tensor, past: list[list[Tensor]] | None = None) -> Tensor:
        """Logits of `ids`; `past`, one list per layer, holds keys and values and grows."""
        start = past[0][0].shape[2] if past and past[0] else 0
        cos, sin = (t[start : start + ids.shape[1]] for t in (self.cos, self.sin))
        x = self.embed_tokens(ids)
        for i, block in enumerate(self.layers):
            x = block(x, cos, sin, past[i] if past is not None else None)
        return F.linear(self.norm(x), self.embed_tokens.weight)


@torch.no_grad()
def continue_batch(model: Decoder, prompts: Tensor, steps: int, temperature: float) -> Tensor:
    """Extend [batch, time] by `steps` tokens; greedy at temperature 0."""
    past: list[list[Tensor]] = [[] for _ in model.layers]
    ids, new = prompts, prompts
    for _ in range(steps):
        logits = model(new, past)[:, -1]
        if temperature:
            new = torch.multinomial(F.softmax(logits / temperature, -1), 1)
        else:
            new = logits.argmax(-1, keepdim=True)
        ids = torch.cat([ids, new], 1)
    return ids


class Windows:
    """Random windows of the text; every position is used once before any is used again."""

    def __init__(self, tokens: np.ndarray, length: int, seed: int) -> None:
        self.tokens, self.length, self.rng = tokens, length, np.random.default_rng(seed)
        self.order: list[int] = []

    def batch(self, rows: int) -> Tensor:
        """Token ids [rows, length + 1], int64."""
        while len(self.order) < rows:
            first = int(self.rng.integers(self.length))
            starts = np.arange(first, len(self.tokens) - self.length - 1, self.length)
            self.order.extend(self.rng.permutation(starts).tolist())
        picked = [self.order.pop() for _ in range(rows)]
        rows_ = [self.tokens[i : i + self.length + 1].astype(np.int64) for i in picked]
        return torch.from_numpy(np.stack(rows_))


def load_model(work: Path, name: str) -> Decoder:
    """Load the model that a stage saved as NAME.pt, for inference."""
    model = Decoder(SHAPES[name])
    model.load_state_dict(torch.load(work / f"{name}.pt", weights_only=True)["model"])
    return model.eval()
