"""transformers as a peer: plain greedy decoding, timed token by token."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList
from transformers.utils import logging

from sbrt.pair import Pair


@dataclass(frozen=True)
class Answer:
    """ids of one generation; `timed` of them took `seconds`.

    gaps: difference of the two best logits of each token, relative to the best.
    """

    ids: list[int]
    seconds: float
    timed: int
    gaps: list[float]

    def gap_at(self, i: int) -> float:
        """How sure the peer was of its i-th token; sure where nothing is known."""
        return self.gaps[i] if i < len(self.gaps) else float("inf")


class Clock(LogitsProcessor):
    """Notes when each token's logits are there and the two best; masks ids from `vocab` on."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab
        self.times: list[float] = []
        self.top: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.times.append(time.perf_counter())
        scores[:, self._vocab :] = -torch.inf
        self.top.append(scores[0].float().topk(2).values)
        return scores


class HfPeer:
    """A transformers model on the CPU with `threads` threads; ids stay below `vocab`."""

    def __init__(self, folder: Path, dtype: str, threads: int, pair: Pair) -> None:
        torch.set_num_threads(threads)
        logging.disable_progress_bar()
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True
        ).eval()
        self._model.generation_config.eos_token_id = None
        self._vocab = pair.vocab

    @torch.inference_mode()
    def generate(self, ids: list[int], max_tokens: int) -> Answer:
        """Greedy, exactly max_tokens; seconds from the first token, after prefill, to the last."""
        clock = Clock(self._vocab)
        prompt = torch.tensor([ids])
        out = self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([clock]),
        )
        tokens = out[0, len(ids) :].tolist()
        gaps = [float((top[0] - top[1]) / top[0].abs().clamp(min=1.0)) for top in clock.top]
        return Answer(tokens, clock.times[-1] - clock.times[0], len(tokens) - 1, gaps)
