"""Contract under test: Gemma 3 270M in Q4_K_M gives the same answers as its dequantised weights in
transformers. Every method gives the same answers as plain decoding. tools/gemma_model.py downloads
the file."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from sbrt import Engine, SamplingParams
from sbrt.model.checkpoint import open_checkpoint

NAME = "gemma-3-270m-q4_k_m.gguf"
QUESTIONS = (
    "What is the capital of France?", "Write a Python function that sorts a list.",
    "Was ist ein Fahrrad?", "Explain photosynthesis in two sentences.",
    "List three prime numbers.", "Translate 'good morning' into Spanish.", "Who wrote Hamlet?",
    "What is 17 times 23?", "Tell me a short story about a cat.", "日本の首都はどこですか?",
)  # fmt: skip
# A text that is longer than the window.
TEXT = "The cat sat on the mat. It saw a dog, and the dog saw it.\n" * 34
GAP = 1e-3  # transformers may differ where its two largest logits are closer than this
LENGTH = 1024


def chat(question):
    return f"<start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n"


@pytest.fixture(scope="module")
def gemma():
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get("SBRT_GGUF") or cache / "sbrt") / NAME
    if not path.is_file():
        pytest.skip(f"{path}: expected a model (python tools/gemma_model.py), found none")
    return path


def test_what_it_is(gemma):
    config = open_checkpoint(gemma).config
    assert (config.hidden, config.layers, config.heads, config.head_dim) == (640, 18, 4, 256)
    assert (config.vocab, config.window, config.max_positions) == (262144, 512, 32768)
    assert [i for i, local in enumerate(config.local) if not local] == [5, 11, 17]
    assert (config.rope_theta, config.local_theta, config.query_scalar) == (1e6, 1e4, 256)


def test_every_method_equals_plain_decoding_beyond_the_window(gemma):
    """Every method must give the tokens of plain decoding. Chains from look-ups are mostly accepted
    here; those of a random draft never are."""
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    methods = ("none", "lookup", "specbranch")
    with Engine.from_pretrained(gemma, "random", max_model_len=LENGTH) as engine:
        assert engine.pair.eos == {1, 106}
        assert len(engine.encode(TEXT)) > 512
        [plain, *others] = [engine.generate(TEXT, params, method=m)[0].outputs[0] for m in methods]
        assert len(plain.token_ids) == 24
        assert all(other.token_ids == plain.token_ids for other in others)
        assert others[0].spec_decode_metrics["num_accepted_draft_tokens"] > 0


@pytest.mark.exact
def test_answers_are_those_of_transformers(files, gemma, tmp_path):
    """The answers must be those of transformers. Our weights stay packed; activations are
    float32."""
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    prompts = [TEXT, *(chat(question) for question in QUESTIONS)]
    with Engine.from_pretrained(gemma, activation_dtype="float32", max_model_len=LENGTH) as engine:
        answers = [
            (engine.encode(o.prompt), o.outputs[0].token_ids)
            for o in engine.generate(prompts, params)
        ]
    folder = files.folder(tmp_path / "folder", [gemma])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt, found in answers:
        with torch.no_grad():
            rows = model(torch.tensor([[*prompt, *found]])).logits[0].numpy()[len(prompt) - 1 : -1]
        for i in np.flatnonzero(rows.argmax(1) != found)[:1]:
            low, high = np.sort(rows[i])[-2:]
            assert high - low < GAP, f"token {i}: gap {high - low:.2e}"
