"""Tiny random checkpoints with a tokenizer trained on the spot, and engines over them."""

import gc
import json
import signal
import struct
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams, _core
from sbrt.methods import METHODS
from sbrt.model import hrad
from sbrt.serve import scheduler
from sbrt.tools import progress

END = "<|endoftext|>"
TEXT = (
    "def quick(items):\n    return sorted(items)\n",
    "class Stack:\n    def push(self, item):\n        self.items.append(item)\n",
    "für alle Wörter: naïve café, 日本語 and emoji 🙂🚀 in one line\n",
    "for i in range(10):\n    print(i, i * i)\n",
)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
}


@cache
def trained(extra):
    """Train a tokenizer with the special tokens `extra`; return the text of its tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END, *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer.to_str(pretty=True)


def write_tokenizer(folder, extra=()):
    (folder / "tokenizer.json").write_text(trained(tuple(extra)), encoding="utf-8")


def write_byte_fallback(folder, words=("the", "cat")):
    """Write a tokenizer.json like those of Llama 2 and Mistral. A space is spelled as the letter
    U+2581, and every text begins with one. Characters without a token are spelled by byte tokens,
    <0x00> to <0xFF>. Tokens 1 and 2 are <s> and </s>."""
    special = ["<unk>", "<s>", "</s>"]
    letters = ["\u2581", *(chr(c) for c in range(33, 127))]
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocab, merges = {name: i for i, name in enumerate(names)}, []
    for word in words:
        for end in range(len(word) + 1):
            vocab.setdefault("\u2581" + word[:end], len(vocab))
        merges += [["\u2581" + word[:end], word[end]] for end in range(len(word))]
    library = Tokenizer(models.BPE(vocab, merges=[tuple(m) for m in merges], byte_fallback=True,
                                   unk_token="<unk>", fuse_unk=True))  # fmt: skip
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    library.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    library.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    library.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    library.save(str(folder / "tokenizer.json"))


def config_of(**changes):
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
    }
    return config | SIZES | changes


def shapes_of(config):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, family = config["num_attention_heads"], config["architectures"][0]
    width = config.get("head_dim", hidden // heads)
    keys = (config["num_key_value_heads"] or heads) * width
    linear = {
        "self_attn.q_proj": (heads * width, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, heads * width),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    layer = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    for name, shape in linear.items():
        layer[f"{name}.weight"] = shape
        if family == "Qwen2ForCausalLM" and name[-6] in "qkv":
            layer[f"{name}.bias"] = shape[:1]
    is_gemma = family == "Gemma3ForCausalLM"
    if is_gemma:
        layer["pre_feedforward_layernorm.weight"] = (hidden,)
        layer["post_feedforward_layernorm.weight"] = (hidden,)
    if is_gemma or family == "Qwen3ForCausalLM":
        layer |= {"self_attn.q_norm.weight": (width,), "self_attn.k_norm.weight": (width,)}
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def random_weights(config, seed=0):
    """Return {name: f32 array}. The weights are large enough that the model's tokens vary."""
    rng = np.random.default_rng(seed)
    return {
        name: np.ones(shape, np.float32)
        if "norm" in name
        else rng.standard_normal(shape, np.float32) * np.float32(0.3)
        for name, shape in shapes_of(config).items()
    }


def known_costs():
    """Return costs in nanoseconds of a pair whose draft costs a tenth of its target."""
    rows = np.arange(1, _core.MAX_ROWS + 1)
    target, draft = (400_000 + 20_000 * rows).tolist(), (40_000 + 2_000 * rows).tolist()
    lanes = {"target": target, "draft": draft}
    return _core.Costs(**lanes, target_overlapped=target, draft_overlapped=draft, round_ns=5_000)


KNOWN_COSTS = known_costs()
# integers and flags are stored unchanged, whatever the dtype
WHOLE = {"int64": "I64", "bool": "BOOL"}


def as_bytes(values, dtype):
    if dtype in WHOLE.values():
        return values.tobytes()
    # Truncation to bfloat16 is exact for the values that tests compare.
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F32": np.float32, "F16": np.float16}[dtype]).tobytes()


def write_file(path, header, data=b"", length=None):
    """Write a safetensors file with any header, valid or not."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(raw) if length is None else length
    path.write_bytes(struct.pack("<Q", size) + raw + data)


def write_weights(path, weights, dtype="F32"):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in weights.items():
        kind = WHOLE.get(value.dtype.name, dtype)
        part = as_bytes(value, kind)
        offsets = [len(data), len(data) + len(part)]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": offsets}
        data += part
    write_file(path, header, data)


def write_checkpoint(folder, *, seed=0, dtype="F32", shards=1, weights=None, **changes):
    """Write a model folder and return its path. `changes` go into config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(**changes)
    (folder / "config.json").write_text(json.dumps(config))
    weights = random_weights(config, seed) if weights is None else weights
    names = list(weights)
    if shards == 1:
        write_weights(folder / "model.safetensors", weights, dtype)
    else:
        files = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(names)}
        for file in set(files.values()):
            part = {name: weights[name] for name in names if files[name] == file}
            write_weights(folder / file, part, dtype)
        index = {"metadata": {}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write_tokenizer(folder)
    return folder


def noisy(weights, share, seed):
    """Return the weights of a draft that often agrees: the target's weights plus some noise."""
    rng = np.random.default_rng(seed)
    return {
        name: value + np.float32(share) * rng.standard_normal(value.shape, np.float32)
        for name, value in weights.items()
    }


@pytest.fixture(scope="session")
def make(random_classifier):
    """Return the functions that write checkpoints, as attributes of one object."""
    return SimpleNamespace(
        checkpoint=write_checkpoint,
        config=config_of,
        shapes=shapes_of,
        weights=random_weights,
        write_weights=write_weights,
        write_file=write_file,
        write_tokenizer=write_tokenizer,
        write_byte_fallback=write_byte_fallback,
        noisy=noisy,
        classifier=random_classifier,
    )


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return (target, draft): the folders of a pair whose draft is right about half of the time."""
    base = tmp_path_factory.mktemp("pair")
    weights = random_weights(config_of(), seed=1)
    target = write_checkpoint(base / "target", weights=weights)
    draft = write_checkpoint(base / "draft", weights=noisy(weights, 0.03, seed=2))
    return target, draft


@pytest.fixture(scope="module")
def engine(folders):
    target, draft = folders
    config = EngineConfig(target, num_threads=2, speculative={"model": draft})
    with Engine(config, methods=METHODS) as found:
        yield found


@pytest.fixture(scope="session")
def prompts():
    return ["def quick(items):", "class Stack:\n", "for i in range(10):\n    print(", "für 日本"]


@pytest.fixture(scope="module")
def plain(engine, prompts):
    """Return {prompt: the first 40 ids of greedy plain decoding}."""
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    outputs = engine.generate(prompts, params, method="none")
    return {p: o.outputs[0].token_ids for p, o in zip(prompts, outputs, strict=True)}


@contextmanager
def interrupted_in(seconds):
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    # hypothesis runs code during garbage collection, and an exception raised there would be lost.
    gc.disable()
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.enable()
        signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="session", autouse=True)
def _no_progress():
    """Switch progress lines off: a slow machine would show them, and tests compare stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "QUIET", 3600.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _known_costs():
    """Make `auto` choose by KNOWN_COSTS in this process, unless a test gives other costs. Measuring
    them takes seconds of processor time for a pair like the demo's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Engine.__init__.__kwdefaults__, "tuning", KNOWN_COSTS)
        yield


@pytest.fixture
def measured_costs(monkeypatch):
    """Make engines measure the costs by which `auto` chooses, as they do outside of tests."""
    monkeypatch.setitem(Engine.__init__.__kwdefaults__, "tuning", None)


@pytest.fixture
def each_round(monkeypatch):
    """Make a stream give a separate output for every round, even if rounds are short."""
    monkeypatch.setattr(scheduler, "SHORT", 0.0)


@pytest.fixture(scope="session")
def ctrl_c():
    """`with ctrl_c(seconds)`: sends Ctrl-C to this process after `seconds`. The block must raise
    KeyboardInterrupt."""
    return interrupted_in


@pytest.fixture(scope="session")
def one_sentence():
    """one_sentence(call, *words): checks that the call is refused in one sentence that contains
    these words. Returns the sentence."""

    def check(call, *words):
        with pytest.raises(InvalidInputError) as caught:
            call()
        text = str(caught.value)
        assert "\n" not in text
        for word in words:
            assert str(word) in text, text
        return text

    return check


@pytest.fixture(scope="module")
def hrad_origin(folders):
    """Return what identifies the training data of a classifier: gamma 7 and the tiny pair."""
    return hrad.origin_of(7, *folders)


@pytest.fixture
def hrad_file(tmp_path, hrad_origin, make):
    """Write a random classifier for the tiny pair with gamma 7; return the file's path."""
    classifier = make.classifier(tmp_path / "h.safetensors", hrad_origin)
    classifier.save()
    return classifier.path
