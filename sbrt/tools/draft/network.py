"""The draft's forward in torch, for training. It is a Llama model whose weights have their Hugging
Face names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._core import inverse_frequencies
from ...model.checkpoint import EMBED
from ...model.config import ModelConfig
from .packing import GROUP, LEVELS

if TYPE_CHECKING:
    from collections.abc import Mapping

NORM, HEAD = "model.norm.weight", "lm_head.weight"


class Network:
    """The draft's weights by Hugging Face name, and the forward that uses them.

    quantised: True if the forward rounds matrices to 4 bits. Gradients pass through the rounding
    unchanged.
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], positions: int) -> None:
        self.config, self.weights, self.quantised = config, dict(weights), False
        device = self.weights[EMBED].device
        scaling = config.rope.core()
        freqs = torch.tensor(inverse_frequencies(config.head_dim, config.rope_theta, scaling))
        angles = torch.outer(torch.arange(positions).float(), freqs.float()).repeat(1, 2)
        amplitude = config.rope.attention_factor if config.rope.kind == "yarn" else 1.0
        self.cos = (angles.cos() * amplitude).to(device)
        self.sin = (angles.sin() * amplitude).to(device)

    @property
    def head(self) -> Tensor:
        """The LM head, [draft vocabulary, hidden]."""
        return self.weights[HEAD]

    @head.setter
    def head(self, weight: Tensor) -> None:
        """Set the LM head."""
        self.weights[HEAD] = weight

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return the final hidden states [batch, time, hidden], after the last norm. Ids [batch,
        time] are padded on the right."""
        x = self.weights[EMBED][tokens].float()
        for i in range(self.config.layers):
            x = self._layer(f"model.layers.{i}.", x)
        return self._norm(x, NORM)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits, float32 [rows, draft vocabulary], for hidden states [rows, hidden]."""
        return F.linear(hidden, self._matrix(HEAD)).float()

    def _layer(self, at: str, x: Tensor) -> Tensor:
        config, (batch, time, _) = self.config, x.shape
        y = self._norm(x, f"{at}input_layernorm.weight")
        q, k, v = (
            self._linear(y, f"{at}self_attn.{name}_proj").view(batch, time, -1, config.head_dim)
            for name in "qkv"
        )
        if config.head_norms:
            q, k = (
                self._norm(t, f"{at}self_attn.{n}_norm.weight") for t, n in ((q, "q"), (k, "k"))
            )
        q, k = self._rotated(q.transpose(1, 2)), self._rotated(k.transpose(1, 2))
        y = self._attention(q, k.to(q.dtype), v.transpose(1, 2).to(q.dtype))
        x = x + self._linear(y.transpose(1, 2).reshape(batch, time, -1), f"{at}self_attn.o_proj")
        y = self._norm(x, f"{at}post_attention_layernorm.weight")
        gate = F.silu(self._linear(y, f"{at}mlp.gate_proj"))
        return x + self._linear(gate * self._linear(y, f"{at}mlp.up_proj"), f"{at}mlp.down_proj")

    def _attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        window, time = self.config.window, q.shape[2]
        if not 0 < window < time:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        at = torch.arange(time, device=q.device)
        seen = (at[None] <= at[:, None]) & (at[None] > at[:, None] - window)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)

    def _rotated(self, x: Tensor) -> Tensor:
        """Apply rope to [batch, heads, time, head_dim]. The two halves of a head form the rotary
        pairs."""
        time, half = x.shape[2], x.shape[3] // 2
        cos, sin = self.cos[:time], self.sin[:time]
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return (x * cos + turned * sin).to(x.dtype)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weights[name], self.config.rms_eps)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._matrix(f"{name}.weight"), self.weights.get(f"{name}.bias"))

    def _matrix(self, name: str) -> Tensor:
        weight = self.weights[name]
        return weight + (rounded(weight.detach()) - weight.detach()) if self.quantised else weight


def rounded(weight: Tensor) -> Tensor:
    """Return a matrix rounded to 4 bits, with the same values as `packing.pack` stores."""
    groups = weight.reshape(weight.shape[0], -1, GROUP)
    low = groups.amin(2, keepdim=True).clamp(max=0)
    high = groups.amax(2, keepdim=True).clamp(min=0)
    scale = ((high - low) / LEVELS).half().float().clamp(min=2.0**-24)
    zero = (-low / scale).round().clamp(0, LEVELS)
    levels = ((groups / scale).round() + zero).clamp(0, LEVELS)
    return ((levels - zero) * scale).reshape(weight.shape)
