"""Contract under test: recordings for a device use the levels and scales of a GGUF file, and
compute the CPU's logits. Matrices of different formats can be fused into one matrix; the weights
stay the same."""

import pytest
import torch

from sbrt.model.checkpoint import open_checkpoint
from sbrt.triton_kernels.packed import PackedMatrix
from tests.common.logits import check_device

FUSED = {"q_proj": 0, "k_proj": 1, "v_proj": 2}


def mixed(name):
    """Return the type of a tensor, as in Q4_K_M files: v and the embedding have more bits than
    other matrices. In addition, one matrix has float16."""
    kinds = {"attn_v": "Q6_K", "token_embd": "Q8_0", "ffn_down": "F16", "ffn_up": "Q4_0"}
    return next((kind for part, kind in kinds.items() if part in name), "Q4_K")


def dense(matrix):
    """Return the weights of a packed matrix as floats, [n, k]."""
    levels, group = (
        matrix.unpacked().permute(1, 0, 2).flatten(1)[:, : matrix.k],
        matrix.format.group,
    )
    found = levels * matrix.scales.t().repeat_interleave(group, 1)[:, : matrix.k]
    if matrix.minimums is not None:
        found += matrix.minimums.t().repeat_interleave(group, 1)[:, : matrix.k]
    return found


@pytest.mark.parametrize(
    "kind", ["Q4_1", "Q8_0", "Q2_K", mixed], ids=["Q4_1", "Q8_0", "Q2_K", "mixed"]
)
def test_weights_are_those_of_the_file(files, tmp_path, kind):
    sizes = {"hidden": 256, "inner": 256, "layers": 1}
    path = files.write(tmp_path / "m.gguf", arch="qwen2", kind=kind, **sizes)
    want = {name: torch.from_numpy(v.copy()) for name, v in files.dequantised([path]).items()}
    weights = check_device(open_checkpoint(path))
    at = "model.layers.0."
    parts = [want[f"{at}self_attn.{name}.weight"] for name in FUSED]
    [layer] = weights.layers
    assert torch.equal(dense(layer.qkv.weight), torch.cat(parts))
    gates = [want[f"{at}mlp.{name}_proj.weight"] for name in ("gate", "up")]
    assert torch.equal(dense(layer.gate_up.weight), torch.cat(gates))
    assert isinstance(layer.down.weight, PackedMatrix) == (kind is not mixed)
    assert torch.equal(dense(weights.head), want["model.embed_tokens.weight"])
    assert torch.equal(weights.embed, want["model.embed_tokens.weight"])
