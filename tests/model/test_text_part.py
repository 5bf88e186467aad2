"""Contract under test: the text part of a Gemma 3 model for images and text gives the logits of
transformers. Tensor names may be those of files on the hub, or those that transformers writes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from sbrt import InvalidInputError
from sbrt.model.checkpoint import open_checkpoint

TOLERANCE = 1e-5  # largest error, as a share of the largest logit
TEXT = {
    "vocab_size": 131, "hidden_size": 48, "intermediate_size": 104, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 12, "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention"], "max_position_embeddings": 256,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Write a random checkpoint. Return (its folder, the model in transformers)."""
    torch.manual_seed(5)
    config = Gemma3Config(
        text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4, image_token_index=130
    )
    model = Gemma3ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    folder = tmp_path_factory.mktemp("text") / "model"
    model.save_pretrained(folder)
    return folder, model


def renamed(folder, out, theirs, ours):
    """Copy a folder to `out`, and rename its tensors: the prefix theirs[i] of a name becomes
    ours[i]."""
    out.mkdir()
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    found = {}
    for name, value in weights.items():
        for old, new in zip(theirs, ours, strict=True):
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        found[name] = value
    assert found.keys() != weights.keys()
    save_file(found, out / "model.safetensors")
    return out


def test_logits(saved, tools, tmp_path):
    folder, model = saved
    tokens = np.random.default_rng(1).integers(0, 130, 60).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    hub = ("language_model.model.", "vision_tower.", "multi_modal_projector.")
    new = ("model.language_model.", "model.vision_tower.", "model.multi_modal_projector.")
    is_hub = any(n.startswith(hub) for n in load_file(folder / "model.safetensors"))
    for at in (folder, renamed(folder, tmp_path / "b", *((hub, new) if is_hub else (new, hub)))):
        given = tools.Sequence(open_checkpoint(at).decoder("float32")).chunk(tokens)
        assert np.abs(given - expected).max() / np.abs(expected).max() < TOLERANCE


def test_a_weight_of_neither_part_is_refused(saved, tmp_path):
    folder, _ = saved
    weights = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(weights | {"audio.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidInputError, match=r"audio.weight.*expected no such tensor"):
        open_checkpoint(tmp_path)


def test_its_config_is_that_of_the_text(saved):
    folder, _ = saved
    config = open_checkpoint(folder).config
    assert json.loads((folder / "config.json").read_text())["text_config"]["head_dim"] == 12
    assert (config.architecture, config.head_dim) == ("Gemma3ForConditionalGeneration", 12)
