"""Runs transformers on the CPU: plain greedy decoding, or assisted by a draft
(`assistant_model`)."""

import torch
import transformers
from serve import Clock, gap_of, serve, timed
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging


class Arrivals(BaseStreamer):
    """A streamer that records when tokens arrive."""

    def __init__(self):
        self.clock, self.is_prompt = Clock(), True

    def put(self, value):
        """Record the arrival of new tokens. The first call passes the prompt, which is left out."""
        if self.is_prompt:
            self.is_prompt = False
        else:
            self.clock.add(value.flatten().tolist())

    def end(self):
        """Do nothing, because `put` keeps no token back."""


class Peer:
    """A peer engine with the ops that serve.py lists."""

    def open(self, folder, draft, dtype, mode, threads, build):
        """Load the models."""
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self.model = load(folder, dtype)
        self.assisted = {}
        if mode == "assistant_model":
            self.assisted = {"assistant_model": load(draft, dtype)}
        return {"version": f"{transformers.__version__}, torch {torch.__version__}"}

    @torch.inference_mode()
    def generate(self, ids, max_tokens):
        """Decode greedily. Returns what Clock.answer returns."""
        arrivals, prompt = Arrivals(), torch.tensor([ids])
        self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=0,
            streamer=arrivals,
            **self.assisted,
        )
        return arrivals.clock.answer(max_tokens)

    @torch.inference_mode()
    def gap(self, ids, token):
        """Return how far the logit of `token` after `ids` is below the best logit; see `gap_of`."""
        return gap_of(self.model(torch.tensor([ids])).logits[0, -1].float(), token)

    @torch.inference_mode()
    def forward(self, rows, context, times):
        """Return the us of each of `times` forwards of `rows` rows after `context` tokens."""
        cache = DynamicCache(config=self.model.config)
        ids = torch.arange(context + rows)[None] + 1
        self.model(ids[:, :context], past_key_values=cache)
        found = []
        for _ in range(times):
            found.append(timed(lambda: self.model(ids[:, context:], past_key_values=cache)))
            cache.crop(-rows)  # removes the last `rows` tokens
        return {"us": found}


def load(folder, dtype):
    """Load a model that continues after an end-of-sequence token."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True
    ).eval()
    model.generation_config.eos_token_id = None
    return model


if __name__ == "__main__":
    serve(Peer())
