"""Fixtures: tiny random checkpoints of every family, and engine cores over lanes that are recorded
on the CPU."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sbrt import _core, methods
from sbrt.gpu.lane import model_of
from sbrt.model.checkpoint import expected_shapes, open_checkpoint
from sbrt.model.config import read_config

VOCAB, MAX_LEN, WINDOW = 67, 160, 24
CONFIG = {
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": True,
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCAB,
    "max_position_embeddings": MAX_LEN,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
# Most tests run on Llama or Qwen3. For these two, a second layer would test nothing more, and cost
# twice as much.
FAMILIES = {
    "Llama": {"rope_scaling": LLAMA3, "num_hidden_layers": 1},
    "Mistral": {"sliding_window": WINDOW, "tie_word_embeddings": False},
    "Qwen2": {"rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "Qwen3": {"rope_scaling": YARN, "num_hidden_layers": 1},
    "Gemma3": {
        "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"],
        "rope_theta": 1e6, "rope_local_base_freq": 1e4, "query_pre_attn_scalar": 20,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": False,  # with a tied head the scaled embedding repeats its token
    },
}  # fmt: skip
METHODS = (
    "draft_model",
    "lookup:gamma=6",
    "pearl",
    "specbranch:k_max=3",
    "specbranch:k_max=3,on_miss=serial",
    "hedge:gamma=3,F=4,tree=0,on_miss=continue",
    "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4",
    "tree:gamma=3,width=4,nodes=12",
)
ROWS = 16  # rows of the verification graph: the methods above have chains of at most 15 nodes


def write(folder, family="Llama", noise=0.0, dtype=np.float32, **changes):
    """Write a random checkpoint; the same sizes give the same weights. noise: factor of random
    values that are added to the weights. A model with a little noise often samples the same tokens
    as the model without noise."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG | FAMILIES[family] | {"architectures": [f"{family}ForCausalLM"]} | changes
    (folder / "config.json").write_text(json.dumps(config))
    rng, other = np.random.default_rng(1), np.random.default_rng(2)
    weights = {}
    for name, shape in expected_shapes(read_config(folder)).items():
        values = rng.standard_normal(shape, np.float32) * np.float32(0.3)
        values += np.float32(noise) * other.standard_normal(shape, np.float32)
        if "norm" in name:
            values += 1
        weights[name] = values.astype(dtype)
    save_file(weights, folder / "model.safetensors")
    return open_checkpoint(folder)


def write_fewer(folder, checkpoint, vocab):
    """Write the model `target` with only the first `vocab` rows of its embedding and LM head."""
    folder.mkdir()
    config = json.loads((checkpoint.folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": vocab}))
    weights = load_file(checkpoint.folder / "model.safetensors")
    for name in {"model.embed_tokens.weight", "lm_head.weight"} & weights.keys():
        weights[name] = weights[name][:vocab].copy()
    save_file(weights, folder / "model.safetensors")
    return open_checkpoint(folder)


class Play:
    """An engine core that can run every method of METHODS."""

    def __init__(self, target, draft, debug=True, **more):
        chosen = [methods.parse(method) for method in METHODS]
        self.core = _core.EngineCore(
            target, draft, max_model_len=MAX_LEN, debug=debug,
            max_gamma=max(m.gamma for m in chosen),
            max_branches=max(m.branches for m in chosen),
            max_width=max(m.width for m in chosen), **more,
        )  # fmt: skip

    def begin(self, prompt, method="none", temperature=0.0, tokens=24, stop=()):
        sampling = _core.Sampling(temperature=temperature, seed=11)
        policy = methods.parse(method).policy()
        self.core.begin(prompt, sampling, policy, tokens, list(stop))

    def answer(self, *args, **kwargs):
        """Run one sequence. Return (tokens, finish reason)."""
        self.begin(*args, **kwargs)
        out = []
        while not self.core.seat(0).finished:
            out += self.core.run()
        return out, self.core.seat(0).finish_reason

    def steps(self, between):
        """Run the sequence that has begun. Call `between` before each call of run(). Return the
        tokens.

        run() may leave a round in flight, so idle() waits for the lanes before `between` is called.
        """
        out = []
        while not self.core.seat(0).finished:
            self.core.idle()
            between()
            out += self.core.run(max_rounds=1)
        return out

    def counters(self):
        s = self.core.seat(0).stats
        return s.rounds, s.draft_tokens, s.accepted, s.branch_rounds, s.branch_hits

    def close(self):
        self.core.close()


def prompt_of(n, seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, n).tolist()


def recorded(checkpoint, lanes=None, rows=ROWS, on_lane=None, **more):
    """Return a model whose lanes are recorded on the CPU. Each lane that is bound is appended to
    `lanes`, or passed to `on_lane`. rows: number of rows of the verification graph."""
    show = lanes.append if lanes is not None else on_lane
    return model_of(checkpoint, device="cpu", rows=rows, on_bind=show, **more)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Make torch use one thread. Matrix products of these sizes gain nothing from more threads, and
    several tests run in parallel."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Return {family: (target, draft)}, written once. About half of a draft's tokens are
    accepted."""
    base = tmp_path_factory.mktemp("families")
    return {
        family: (write(base / f"{family}-t", family), write(base / f"{family}-d", family, 0.03))
        for family in FAMILIES
    }


@pytest.fixture(scope="session")
def tools():
    return SimpleNamespace(
        write=write, write_fewer=write_fewer, Play=Play, prompt=prompt_of, recorded=recorded,
        families=FAMILIES, methods=METHODS, rows=ROWS, vocab=VOCAB, max_len=MAX_LEN,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tool():
    """Return the module stand_in.py, which is also a program."""
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    import stand_in

    yield stand_in
    sys.path.remove(folder)


@pytest.fixture
def stand_in(tool, monkeypatch):
    return tool.StandIn(monkeypatch.setattr)
