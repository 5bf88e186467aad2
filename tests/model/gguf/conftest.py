"""Tiny random models written by the `gguf` package, and the same models as plain folders."""

import json
import random
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import TokenType, quants
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from sbrt import InvalidInputError
from sbrt.model import real_pair
from sbrt.model.safetensors_file import encode

REAL = "SmolLM2-135M-Instruct.Q4_1.gguf"
END = "<|endoftext|>"
TEXT = (
    "def quick(items):\n    return sorted(items)\n",
    "für alle Wörter: naïve café, 日本語 and emoji 🙂🚀 in one line\n",
    "for i in range(10):\n    print(i, i * i, 12345)\n",
)
SIZES = {
    "hidden": 256, "inner": 256, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 64,
    "context": 128,
}  # fmt: skip
BIASED, NORMED, GEMMA = "qwen2", ("qwen3", "gemma3"), "gemma3"
WINDOW, PERIOD = 24, 2  # sliding window, in positions; every PERIOD-th layer has none


CODE = "def  for ( ) [ ] == != += __init__ self. 'll 'S don't I'M x1y2 0x1F 3.14 1234567"
PIECES = (
    *CODE.split(), "日本語", "中文字符", "한국어", "🙂", "🚀👩\u200d👩\u200d👧", "für", "naïve",
    "Привет", "हिन्दी", "ไทย", "½", "Ⅷ", "\u0664\u0665", " ", "  ", "    ", "\t", "\n", "\r\n",
    "\n\n", "\0", "\x01", "\x1c", "\x7f", "\u0085", "\u00a0", "\u200b", "\u3000", "\u0301",
    "\ufeff", "\ufffd", "\u2581", "<|user|>", "<|endoftext|>", "<s>", "</s>",
)  # fmt: skip


def mixed_lines(count=600):
    """Return texts of code, many scripts, emoji, control characters and look-alikes of special
    tokens."""
    rng = random.Random(11)
    return ["", " ", "\n"] + [
        "".join(rng.choice(PIECES) + rng.choice(("", " ")) for _ in range(rng.randrange(1, 12)))
        for _ in range(count)
    ]


def byte_level_words(size=300):
    """Train a byte-level BPE tokenizer. Return (tokens, merges, kinds); the last token is a control
    token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [*sorted(model["vocab"], key=model["vocab"].get), "<|user|>", END]
    kinds = [TokenType.NORMAL] * (len(tokens) - 2) + [TokenType.USER_DEFINED, TokenType.CONTROL]
    return tokens, [" ".join(merge) for merge in model["merges"]], kinds


def scored_words(size=400):
    """Return the vocabulary of a SentencePiece tokenizer: (tokens, scores, kinds). The tokens are
    special tokens, bytes, and learnt parts of words."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    learnt = sorted(model["vocab"], key=model["vocab"].get)
    special = ["<unk>", "<s>", "</s>"]
    tokens = [*special, *(f"<0x{i:02X}>" for i in range(256)), *learnt]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    kinds += [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(learnt)
    return tokens, [0.0] * 259 + [-float(i) for i in range(len(learnt))], kinds


def shapes_of(arch, vocab, tied, s):
    """Return {GGUF name: shape} of every tensor."""
    hidden, queries, keys = s.hidden, s.heads * s.head_dim, s.kv_heads * s.head_dim
    layer = {
        "attn_norm.weight": (hidden,), "ffn_norm.weight": (hidden,),
        "attn_q.weight": (queries, hidden), "attn_k.weight": (keys, hidden),
        "attn_v.weight": (keys, hidden), "attn_output.weight": (hidden, queries),
        "ffn_gate.weight": (s.inner, hidden), "ffn_up.weight": (s.inner, hidden),
        "ffn_down.weight": (hidden, s.inner),
    }  # fmt: skip
    if arch == BIASED:
        layer |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
    if arch == GEMMA:
        layer |= {"post_attention_norm.weight": (hidden,), "post_ffw_norm.weight": (hidden,)}
    if arch in NORMED:
        layer |= {"attn_q_norm.weight": (s.head_dim,), "attn_k_norm.weight": (s.head_dim,)}
    shapes = {"token_embd.weight": (vocab, hidden), "output_norm.weight": (hidden,)}
    shapes |= {f"blk.{i}.{name}": shape for i in range(s.layers) for name, shape in layer.items()}
    return shapes if tied else shapes | {"output.weight": (vocab, hidden)}


def random_blocks(kind, shape, rng, scale=0.3):
    """Return the bytes of a random tensor. The `gguf` package quantises the tensor if it knows the
    type. Otherwise all bytes of a block are random except its scales."""
    values = rng.standard_normal(shape, np.float32) * np.float32(scale)
    try:
        return quants.quantize(values, kind)
    except NotImplementedError:
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, (values.size // elements, size), dtype=np.uint8)
        for at in HALVES[kind.name]:
            small = rng.uniform(0.2, 1.0, (len(raw), 1)) * scale / SPREAD[kind.name]
            raw[:, at : at + 2] = small.astype("<f2").view(np.uint8)
        return raw.reshape(shape[0], -1)


# HALVES: byte offsets of the float16 scales in a block. SPREAD: typical size of a weight if these
# scales are 1.
HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
          "IQ4_NL": (0,)}  # fmt: skip
SPREAD = {"Q2_K": 15, "Q3_K": 40, "Q4_K": 250, "Q5_K": 500, "Q6_K": 1500, "IQ4_NL": 70}


def add_words(writer, words):
    if words is None:
        words = "smollm"
    if words == "scores":
        tokens, scores, kinds = scored_words()
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(scores)
        ids = {"bos": 1, "eos": 2, "unk": 0}
    else:
        tokens, merges, kinds = byte_level_words()
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(words)
        writer.add_token_merges(merges)
        ids = {"bos": len(tokens) - 1, "eos": len(tokens) - 1}
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    for name, value in ids.items():
        getattr(writer, f"add_{name}_token_id")(value)
    return len(tokens)


def add_sizes(writer, s, vocab):
    writer.add_context_length(s.context)
    writer.add_embedding_length(s.hidden)
    writer.add_block_count(s.layers)
    writer.add_feed_forward_length(s.inner)
    writer.add_head_count(s.heads)
    writer.add_head_count_kv(s.kv_heads)
    writer.add_key_length(s.head_dim)
    writer.add_value_length(s.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(s.head_dim)
    writer.add_vocab_size(vocab)


def add_layer_kinds(writer):
    writer.add_sliding_window(WINDOW)
    writer.add_sliding_window_pattern(PERIOD)


def write_gguf(path, *, arch="llama", kind="F32", words=None, tied=True, seed=0, more=None,
               tensors=None, split=0, **sizes):  # fmt: skip
    """Write a random model and return its path.

    kind: the type of all matrices, or a function from a name to a type. words: the pre-tokenizer,
    or "scores" for SentencePiece. more: a function that is called with the writer. tensors: {name:
    values} instead of random values. split: number of tensors in a part of the file.
    """
    s = SimpleNamespace(**(SIZES | sizes))
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split)
    vocab = add_words(writer, words)
    add_sizes(writer, s, vocab)
    if arch == GEMMA:
        add_layer_kinds(writer)
    if more is not None:
        more(writer)
    for name, shape in shapes_of(arch, vocab, tied, s).items():
        of = kind if isinstance(kind, str) else kind(name)
        if tensors is not None and name in tensors:
            values = tensors[name]  # an array, or (bytes of blocks, their type)
            values, of = values if isinstance(values, tuple) else (values, None)
            writer.add_tensor(name, values, raw_dtype=of)
        elif len(shape) == 1:
            writer.add_tensor(name, 1 + rng.standard_normal(shape, np.float32) * np.float32(0.1))
        else:
            blocks = random_blocks(Type[of], shape, rng)
            writer.add_tensor(name, blocks, raw_dtype=Type[of])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


FOLDER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


GEMMA_NAMES = {
    "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip


def folder_name(arch, name):
    parts = name.split(".")
    if parts[0] != "blk":
        ends = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
        return f"{ends.get(parts[0], 'lm_head')}.weight"
    names = FOLDER_NAMES | (GEMMA_NAMES if arch == GEMMA else {})
    return f"model.layers.{parts[1]}.{names[parts[2]]}.{parts[3]}"


def dequantised(paths):
    """Read a file with the `gguf` package only. Return {Hugging Face name: float32 array}."""
    return dequantised_by([gguf.GGUFReader(path) for path in paths])


def dequantised_by(readers):
    """Return {Hugging Face name: float32 array} of files that are already open. Opening a real
    model's file takes seconds."""
    found = {}
    first = readers[0]
    arch = reader_value(first, "general.architecture")
    for reader in readers:
        for tensor in reader.tensors:
            values = quants.dequantize(tensor.data, tensor.tensor_type)
            module = tensor.name.split(".")[-2]
            if module == "rope_freqs":
                continue
            if arch == "llama" and module in ("attn_q", "attn_k"):
                key = "head_count" if module == "attn_q" else "head_count_kv"
                heads = int(reader_value(first, f"llama.attention.{key}"))
                pairs = values.reshape(heads, -1, 2, *values.shape[1:])
                values = pairs.swapaxes(1, 2).reshape(values.shape)
            found[folder_name(arch, tensor.name)] = np.ascontiguousarray(values, np.float32)
    return found


def reader_value(reader, key, default=None):
    field = reader.get_field(key)
    return default if field is None else field.contents()


def first_layers(path, out, layers):
    """Write a copy of the model with fewer layers, and return its path."""
    reader = gguf.GGUFReader(path)
    arch = reader_value(reader, "general.architecture")
    writer = gguf.GGUFWriter(out, arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = layers if name == f"{arch}.block_count" else field.contents()
        writer.add_key_value(name, value, field.types[0], field.types[-1])
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or int(tensor.name.split(".")[1]) < layers:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


ARCHITECTURES = {
    "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
    GEMMA: "Gemma3ForCausalLM",
}  # fmt: skip


def write_folder(folder, paths):
    """Write the model in GGUF files as a Hugging Face folder with float32 weights, without a
    tokenizer."""
    folder.mkdir()
    readers = [gguf.GGUFReader(path) for path in paths]
    reader = readers[0]
    arch = reader_value(reader, "general.architecture")
    weights = dequantised_by(readers)

    def value(key, default=None):
        return reader_value(reader, f"{arch}.{key}", default)

    heads = int(value("attention.head_count"))
    hidden = int(value("embedding_length"))
    config = {
        "architectures": [ARCHITECTURES[arch]],
        "model_type": arch,
        "hidden_size": hidden,
        "intermediate_size": int(value("feed_forward_length")),
        "num_hidden_layers": int(value("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(value("attention.head_count_kv", heads)),
        "head_dim": int(value("attention.key_length", hidden // heads)),
        "vocab_size": len(weights["model.embed_tokens.weight"]),
        "max_position_embeddings": int(value("context_length")),
        "rms_norm_eps": float(value("attention.layer_norm_rms_epsilon")),
        "rope_theta": float(value("rope.freq_base", 10000.0)),
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "eos_token_id": int(reader_value(reader, "tokenizer.ggml.eos_token_id")),
    }
    if arch == GEMMA:  # norm weights in a folder are smaller by 1
        weights = {n: v - np.float32("norm" in n) for n, v in weights.items()}
        config |= {
            "model_type": "gemma3_text",
            "sliding_window": int(value("attention.sliding_window")),
            "sliding_window_pattern": int(value("attention.sliding_window_pattern", 6)),
            "query_pre_attn_scalar": config["head_dim"],
        }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(encode(weights, {"format": "pt"}))
    return folder


@pytest.fixture(scope="session")
def files():
    """Return functions that write models, or that read them with the `gguf` package."""
    return SimpleNamespace(
        write=write_gguf,
        folder=write_folder,
        dequantised=dequantised,
        first_layers=first_layers,
        blocks=random_blocks,
        byte_level_words=byte_level_words,
        scored_words=scored_words,
        mixed_lines=mixed_lines,
    )


@pytest.fixture(scope="session")
def real():
    """Return the path of the SmolLM2 file that `sbrt fetch smollm2` downloads. Skip the test if the
    file is missing."""
    path = real_pair.cache_folder() / REAL
    if not path.is_file():
        pytest.skip(f"{path}: expected a model (make real-model), found none")
    return path


@pytest.fixture(scope="session")
def refused():
    """refused(call, *words): checks that call() raises an error of one sentence that contains these
    words."""

    def check(call, *words):
        with pytest.raises(InvalidInputError) as caught:
            call()
        sentence = str(caught.value)
        assert all(str(word) in sentence for word in words), sentence
        assert "\n" not in sentence
        assert len(sentence) < 600

    return check
