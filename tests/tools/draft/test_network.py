"""Contract under test: the network that is trained gives the same logits as the engine."""

import numpy as np
import pytest

from sbrt.config import EngineConfig
from sbrt.model.checkpoint import HEAD, open_checkpoint
from sbrt.serve.pair import load_pair
from sbrt.tools.draft.labels import Answer, Reader
from sbrt.tools.draft.shape import draft_config, first_layers, read_weights

from .conftest import SIZES

torch = pytest.importorskip("torch")
from sbrt.tools.draft.network import Network  # noqa: E402

FAMILIES = {
    "llama": {},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                              "original_max_position_embeddings": 64}},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": 16},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"]},
}  # fmt: skip


def tensors(weights):
    return {name: torch.from_numpy(np.array(values)) for name, values in weights.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_engines(make, tmp_path, family):
    """The network gives the engine's logits. Here it is the whole target, with the tied embedding
    as its LM head."""
    folder = make.checkpoint(tmp_path / "t", seed=4, **SIZES, **FAMILIES[family])
    checkpoint = open_checkpoint(folder)
    config = draft_config(checkpoint.config, 2, 64, checkpoint.config.vocab)
    weights = first_layers(checkpoint, config)
    weights[HEAD] = weights["model.embed_tokens.weight"]
    network = Network(config, tensors(weights), 64)
    chance = np.random.default_rng(1)
    answer = Answer(
        "x", 0, chance.integers(0, 300, 20).tolist(), chance.integers(0, 300, 30).tolist()
    )
    tokens = torch.tensor([[*answer.prompt, *answer.ids[:-1], 0, 0]])  # padded on the right
    with torch.no_grad():
        ours = network.logits(network.hidden(tokens)[0, 19:49]).numpy()
    pair = load_pair(EngineConfig(folder, num_threads=1))
    theirs = np.concatenate([piece for _, piece in Reader(pair, 64, 1).read(answer)])
    # the engine leaves out padding, the columns whose id is no token
    assert theirs.shape == (30, pair.vocab)
    ours = ours[:, : pair.vocab]
    assert np.abs(ours - theirs).max() < 2e-4 * np.abs(theirs).max()


def test_a_quantised_forward_is_that_of_the_rounded_weights(target):
    checkpoint = open_checkpoint(target)
    config = draft_config(checkpoint.config, 1, 64, 32)
    weights = tensors(first_layers(checkpoint, config))
    weights[HEAD] = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    from sbrt.tools.draft.network import rounded

    network = Network(config, weights, 16)
    network.quantised = True
    matrices = {n: w for n, w in weights.items() if w.dim() == 2 and "embed" not in n}
    plain = Network(config, weights | {n: rounded(w) for n, w in matrices.items()}, 16)
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9]])
    assert torch.allclose(network.logits(network.hidden(tokens)[0]),
                          plain.logits(plain.hidden(tokens)[0]), atol=1e-5)  # fmt: skip


def test_dequantised_weights_are_those_of_the_file(target):
    checkpoint = open_checkpoint(target)
    [(name, values)] = read_weights(checkpoint, ["model.norm.weight"]).items()
    dtype, data = checkpoint.weights[name].numbers()
    assert dtype == "F32"
    assert (values == data.view(np.float32)).all()
