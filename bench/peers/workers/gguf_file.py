"""Converts a Hugging Face Llama folder to GGUF, once per dtype; needs only numpy and `gguf`.

For rope, llama.cpp rotates neighbouring pairs of a head; Hugging Face rotates its halves. So the
rows of q and k are reordered. The file has no vocabulary (tokenizer "none"), because prompts are
given as ids.
"""

import json
import mmap
import struct
from pathlib import Path

import gguf
import numpy as np

KINDS = {
    "float32": gguf.GGMLQuantizationType.F32,
    "float16": gguf.GGMLQuantizationType.F16,
    "bfloat16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
INSIDE = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(folder, build, dtype):
    """Return the path of the GGUF file in the folder `build`. The file is written if it does not
    exist."""
    path = Path(build) / f"{Path(folder).name}-{dtype}.gguf"
    if not path.exists():
        part = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(Path(folder), part, dtype)
        part.replace(path)
    return str(path)


def _write(folder, path, dtype):
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("none")
    for name, values in tensors(folder / "model.safetensors"):
        if "q_proj" in name:
            values = for_rope(values, heads)
        elif "k_proj" in name:
            values = for_rope(values, kv_heads)
        kind = KINDS[dtype] if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name_of(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def name_of(name):
    """Return GGUF's name for a Hugging Face tensor."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, layer, inner = name.split(".", 3)
    return f"blk.{layer}.{INSIDE[inner.removesuffix('.weight')]}.weight"


def for_rope(values, heads):
    """Reorder the rows of each head, from Hugging Face's halves to llama.cpp's neighbouring
    pairs."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def tensors(path):
    """Yield (name, float32 values) of a safetensors file. Raises ValueError if a tensor is not
    bf16."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    [length] = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            raise ValueError(f"{path}, tensor {name}: expected BF16, got {entry['dtype']}")
        begin, end = (8 + length + at for at in entry["data_offsets"])
        bits = np.frombuffer(data[begin:end], "<u2").astype("<u4") << 16
        yield name, bits.view("<f4").reshape(entry["shape"])
