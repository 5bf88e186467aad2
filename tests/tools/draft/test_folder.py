"""Contract under test: a draft's folder is read back with the draft's shape, and with the same
weights as in training."""

from dataclasses import replace

import numpy as np
import pytest

from sbrt.model.checkpoint import EMBED, open_checkpoint, random_weights
from sbrt.model.config import config_of, read_config
from sbrt.model.config_json import config_json
from sbrt.model.draft import open_draft
from sbrt.model.fingerprint import fingerprint
from sbrt.model.rope import Rope
from sbrt.tools.draft.folder import write_draft
from sbrt.tools.draft.shape import draft_config, first_layers

IDS = np.array([0, 1, 5, *range(20, 80), 290, 299])
ROPES = {
    "default": Rope(),
    "linear": Rope(kind="linear", factor=2.0),
    "llama3": Rope(
        kind="llama3", factor=8.0, original_max=128.0, low_freq=1.0, high_freq=4.0
    ),
    "yarn": Rope(
        kind="yarn", factor=2.0, original_max=256.0, attention_factor=1.07, truncate=False
    ),
}  # fmt: skip


def numbers(weight):
    """Return a stored weight as float32."""
    dtype, data = weight.numbers()
    assert dtype == "F32"
    return data.view(np.float32).reshape(weight.shape)


@pytest.fixture
def draft(target, tmp_path):
    """Return (config, weights, folder) of a draft with random weights and its target's
    embedding."""
    config = draft_config(open_checkpoint(target).config, 1, 64, len(IDS))
    weights = dict(random_weights(config, 3))
    write_draft(tmp_path / "d", config, weights, IDS, shares_embedding=True)
    return config, weights, tmp_path / "d"


def test_a_folder_is_read_as_it_was_written(draft, target):
    config, weights, folder = draft
    found = open_draft(folder, open_checkpoint(target))
    assert found.config == config
    assert found.head_ids == tuple(IDS.tolist())
    assert found.shares_embedding
    assert set(found.weights) == set(weights) - {EMBED}
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_a_draft_has_a_fingerprint(draft, tmp_path):
    config, weights, folder = draft
    write_draft(tmp_path / "same", config, weights, IDS, shares_embedding=True)
    other = weights | {"model.norm.weight": weights["model.norm.weight"] * 2}
    write_draft(tmp_path / "other", config, other, IDS, shares_embedding=True)
    assert fingerprint(folder) == fingerprint(tmp_path / "same")
    assert fingerprint(folder) != fingerprint(tmp_path / "other")


def test_training_rounds_as_the_folder_does(draft, target):
    torch = pytest.importorskip("torch")
    from sbrt.tools.draft.network import rounded

    _, weights, folder = draft
    found = open_draft(folder, open_checkpoint(target))
    matrices = [name for name, weight in found.weights.items() if len(weight.shape) == 2]
    assert len(matrices) == 8  # seven matrices of the layer, and the LM head
    for name in matrices:
        expected = rounded(torch.from_numpy(weights[name])).numpy()
        assert (numbers(found.weights[name]) == expected).all()
        step = np.ptp(weights[name].reshape(-1, 32), axis=1).max() / 15
        assert np.abs(expected - weights[name]).max() <= 0.51 * step


def test_numbers_that_have_levels_stay_as_they_are(tmp_path, target):
    config = draft_config(open_checkpoint(target).config, 1, 64, len(IDS))
    chance = np.random.default_rng(0)
    weights = dict(random_weights(config, 3))
    for name, values in weights.items():
        if values.ndim == 2:
            levels = chance.integers(0, 16, (values.size // 32, 32))
            levels[:, :2] = 0, 15
            weights[name] = ((levels - 6) * np.float32(0.25)).reshape(values.shape)
    write_draft(tmp_path, config, weights, IDS, shares_embedding=True)
    found = open_draft(tmp_path, open_checkpoint(target))
    for name, weight in found.weights.items():
        assert (numbers(weight) == weights[name]).all()


def test_a_constant_group_is_exact_at_zero(tmp_path, target):
    config = draft_config(open_checkpoint(target).config, 1, 64, len(IDS))
    weights = {name: values * 0 for name, values in random_weights(config, 3)}
    write_draft(tmp_path, config, weights, IDS, shares_embedding=True)
    found = open_draft(tmp_path, open_checkpoint(target))
    assert all((numbers(weight) == 0).all() for weight in found.weights.values())


@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("LlamaForCausalLM", {}),
        ("LlamaForCausalLM", {"o_bias": True, "qkv_bias": True, "mlp_bias": True}),
        ("MistralForCausalLM", {"window": 96}),
        ("MistralForCausalLM", {}),
        ("Qwen2ForCausalLM", {"qkv_bias": True}),
        ("Qwen3ForCausalLM", {"head_norms": True}),
    ],
)
def test_every_shape_comes_back(target, tmp_path, architecture, changes, kind):
    base = replace(read_config(target), architecture=architecture, **changes)
    positions = 512 if kind in ("linear", "yarn") else 256
    base = replace(base, rope=ROPES[kind], max_positions=positions)
    config = draft_config(base, 2, 64, 32)
    assert config_of(tmp_path / "config.json", config_json(config)) == config


def test_a_narrow_draft_has_an_embedding_of_its_own(make, tmp_path):
    wide = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 3, "head_dim": 32}
    target = make.checkpoint(tmp_path / "t", num_key_value_heads=3, **wide)
    checkpoint = open_checkpoint(target)
    config = draft_config(checkpoint.config, 2, 64, len(IDS))
    assert (config.heads, config.kv_heads, config.inner) == (2, 1, 128)
    weights = first_layers(checkpoint, config)
    weights["lm_head.weight"] = np.ones((len(IDS), 64), np.float32)
    write_draft(tmp_path / "d", config, weights, IDS, shares_embedding=False)
    found = open_draft(tmp_path / "d", checkpoint)
    assert not found.shares_embedding
    assert found.config == config


def test_rows_of_broken_groups_stay_bfloat16(make, tmp_path):
    target = make.checkpoint(tmp_path / "t")  # its MLP has 48 neurons, no multiple of 32
    checkpoint = open_checkpoint(target)
    config = draft_config(checkpoint.config, 1, 32, len(IDS))
    write_draft(tmp_path / "d", config, dict(random_weights(config, 3)), IDS, shares_embedding=True)
    found = open_draft(tmp_path / "d", checkpoint)
    assert found.config == config
    assert {w.dtype for w in found.weights.values() if len(w.shape) == 2} == {"BF16"}


@pytest.mark.parametrize(
    ("layers", "width", "words"),
    [
        (0, 64, ("--layers", "1 to 2", "0")),
        (3, 64, ("--layers", "1 to 2", "3")),
        (1, 128, ("--width", "64", "128")),
        (1, 40, ("--width", "smaller multiple of 32", "40")),
        (1, 0, ("--width", "0")),
    ],
)
def test_a_shape_that_cannot_be_is_refused(target, one_sentence, layers, width, words):
    config = read_config(target)
    one_sentence(lambda: draft_config(config, layers, width, 32), *words)
