"""Contract under test: a tokenizer in a GGUF file gives the same ids as the tokenizer from which it
was converted. For the kinds that transformers can read, transformers gives the right ids. For the
other kinds, these tests build a tokenizer."""

import json

import gguf
import pytest
import transformers
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from sbrt import Engine, SamplingParams
from sbrt.model.gguf.header import open_gguf
from sbrt.model.gguf.splits import ALIKE, SPLITS
from sbrt.model.gguf.tokenizer import chat_template, end_ids, tokenizer_json
from sbrt.model.tokenizer import Tokenizer


def ids_of(path, text):
    return Tokenizer(path).encode(text, 10**6)


def same_ids(path, other, texts):
    ours = Tokenizer(path)
    for text in texts:
        found = ours.encode(text, 10**6)
        assert found == other(text), repr(text)


def transformers_ids(path):
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return lambda text: theirs(text)["input_ids"]


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "deepseek-r1-qwen", "llama3"])
def test_a_byte_level_kind_that_transformers_knows(files, tmp_path, pre):
    arch = "qwen2" if "qwen" in pre else "llama"
    path = files.write(
        tmp_path / "m.gguf", words=pre, arch=arch,
        more=lambda writer: writer.add_add_bos_token(False),
    )  # fmt: skip
    same_ids(path, transformers_ids(path), files.mixed_lines())


def library_of(files, *before):
    """Return the `encode` of a byte-level BPE tokenizer with the same tokens. `before`: its
    pre-tokenizers."""
    tokens, merges, _ = files.byte_level_words()
    vocab = {token: i for i, token in enumerate(tokens)}
    library = Library(models.BPE(vocab, [tuple(merge.split(" ")) for merge in merges]))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([*before, level])
    library.decoder = decoders.ByteLevel()
    library.add_tokens([tokens[-2]])
    library.add_special_tokens([tokens[-1]])
    return lambda text: library.encode(text).ids


@pytest.mark.parametrize("pre", ["smollm", "starcoder", "refact", "command-r"])
def test_digits_alone(files, tmp_path, pre):
    """The ids must be those of a tokenizer.json of these models: Digits, then ByteLevel with
    GPT-2's pattern."""
    path = files.write(tmp_path / "m.gguf", words=pre)
    same_ids(
        path, library_of(files, pre_tokenizers.Digits(individual_digits=True)), files.mixed_lines()
    )


def test_scores(files, tmp_path):
    path = files.write(tmp_path / "m.gguf", words="scores")
    theirs = transformers_ids(path)
    # Skip texts that begin with a space, because transformers' Metaspace does not add its own space
    # to them.
    texts = [text for text in files.mixed_lines() if not text.startswith((" ", "\u2581"))]
    same_ids(path, theirs, [text for text in texts if text and "<" not in text])


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("default", "a+b==12345", ["a", "+", "b", "==", "123", "45"]),
        ("gpt-2", "it's 12345  x", ["it", "'s", " 12345", " ", " x"]),
        ("smollm", "x12 3", ["x", "1", "2", " ", "3"]),
        ("llama-bpe", "It'S 12345\n\n x", ["It", "'S", " ", "123", "45", "\n\n", " x"]),
        ("qwen2", "ab123 \n", ["ab", "1", "2", "3", " \n"]),
        ("deepseek-llm", "a b\n日本 12!", ["a", " b", "\n", "日本", " ", "12", "!"]),
        ("deepseek-coder", "a 12.", ["a", " ", "1", "2", "."]),
        ("deepseek-v3", "ab日本12345!x", ["ab", "日本", "123", "45", "!x"]),
    ],
)
def test_how_a_kind_splits(files, tmp_path, pre, text, pieces):
    path = files.write(tmp_path / "m.gguf", words=pre)
    library = Library.from_buffer(tokenizer_json(path))
    found = library.pre_tokenizer.pre_tokenize_str(text)
    assert [text[a:b] for _, (a, b) in found] == pieces


def test_every_name_means_a_split():
    assert set(ALIKE.values()) <= SPLITS.keys()
    assert not ALIKE.keys() & SPLITS.keys()


# --- tokens around a prompt, special tokens, end tokens ---


@pytest.mark.parametrize(
    ("words", "begin", "end", "expected"),
    [
        ("smollm", None, None, (0, 0)), ("smollm", True, None, (1, 0)),
        ("llama-bpe", None, None, (1, 0)), ("llama-bpe", False, True, (0, 1)),
        ("dbrx", None, None, (0, 0)), ("scores", None, None, (1, 0)),
        ("scores", False, None, (0, 0)), ("scores", True, True, (1, 1)),
    ],
)  # fmt: skip
def test_tokens_around_a_prompt(files, tmp_path, words, begin, end, expected):
    def more(writer):
        if begin is not None:
            writer.add_add_bos_token(begin)
        if end is not None:
            writer.add_add_eos_token(end)

    path = files.write(tmp_path / "m.gguf", words=words, more=more)
    metadata = open_gguf(path).metadata
    ids = ids_of(path, "for i in x")
    inner = Tokenizer(path).word_ids("for i in x")
    first, last = (metadata[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos"))
    assert ids == [first] * expected[0] + inner + [last] * expected[1]


def test_special_tokens_are_whole_and_left_out_of_text(files, tmp_path):
    tokenizer = Tokenizer(files.write(tmp_path / "m.gguf", words="smollm"))
    ids = tokenizer.encode("a<|user|>b<|endoftext|>", 100)
    assert ids[-1] == 299
    assert 298 in ids
    assert tokenizer.decode(ids) == "a<|user|>b"  # user-defined tokens are text
    assert tokenizer.decode(ids, skip_special=False) == "a<|user|>b<|endoftext|>"


def test_bytes_that_no_token_has_are_kept(files, tmp_path):
    tokenizer = Tokenizer(files.write(tmp_path / "m.gguf", words="scores"))
    for text in ("\x00\x7f€", "a🦜b", "naïve café"):
        assert tokenizer.decode(tokenizer.encode(text, 100)) == text


def test_ends_of_a_sequence_of_a_turn_and_of_a_message(files, tmp_path):
    def more(writer):
        writer.add_eot_token_id(298)
        writer.add_uint32("tokenizer.ggml.eom_token_id", 5)
        writer.add_chat_template("{{ messages }}")

    path = files.write(tmp_path / "m.gguf", more=more)
    assert end_ids(open_gguf(path), 300).keys() == {299, 298, 5}
    assert chat_template(open_gguf(path)) == "{{ messages }}"
    config = {"num_threads": 1, "skip_tokenizer_init": True}
    with Engine.from_pretrained(path, **config) as engine:
        assert engine.pair.eos == {299, 298, 5}


def test_what_its_makers_sample_it_with(files, tmp_path, refused):
    def more(writer):
        writer.add_float32("general.sampling.temp", 0.5)
        writer.add_int32("general.sampling.top_k", 40)
        writer.add_float32("general.sampling.mirostat_tau", 5.0)

    path = files.write(tmp_path / "m.gguf", more=more)
    with Engine.from_pretrained(path, num_threads=1) as engine:
        assert engine.pair.defaults == SamplingParams(temperature=0.5, top_k=40)
    path = files.write(
        tmp_path / "k.gguf", more=lambda writer: writer.add_int32("general.sampling.top_k", -1)
    )
    with Engine.from_pretrained(path, num_threads=1) as engine:
        assert engine.pair.defaults == SamplingParams(top_k=0)
    path = files.write(
        tmp_path / "n.gguf", more=lambda writer: writer.add_float32("general.sampling.temp", -1.0)
    )
    with Engine.from_pretrained(path, num_threads=1) as engine:
        refused(lambda: engine.generate("x"), "n.gguf", "temperature")


# --- invalid metadata ---


@pytest.mark.parametrize("key", ["eos_token_id", "eot_token_id", "eom_token_id"])
@pytest.mark.parametrize("has_words", [True, False])
def test_an_end_id_without_a_logit_is_refused(files, tmp_path, refused, key, has_words):
    def change(entries):
        for name in [name for name in entries if name.startswith("tokenizer.") and not has_words]:
            del entries[name]
        entries[f"tokenizer.ggml.{key}"] = value(300, U32)

    path = edited(files, tmp_path, change)
    config = {"num_threads": 1, "skip_tokenizer_init": True}
    refused(lambda: Engine.from_pretrained(path, **config), "m.gguf", key, "from 0 to 299", "300")


def test_an_end_id_is_a_token_of_the_tokenizer(files, tmp_path, refused):
    path = files.write(tmp_path / "m.gguf", more=lambda writer: writer.add_eot_token_id(298))
    other = tmp_path / "tokenizer.json"
    Library(models.WordLevel({f"t{i}": i for i in range(300) if i != 298})).save(str(other))
    refused(
        lambda: Engine.from_pretrained(path, tokenizer=other, num_threads=1),
        *("m.gguf, tokenizer.ggml.eot_token_id", "tokenizer.json", "298"),
    )


def edited(files, tmp_path, change):
    """Write a file whose metadata `change` edits; return its path."""
    path = tmp_path / "m.gguf"
    files.write(path, more=lambda writer: change(writer.kv_data[0]))
    return path


def value(what, kind, sub=None):
    return gguf.gguf_writer.GGUFValue(what, kind, sub)


STRING, ARRAY, U32, I32 = (
    gguf.GGUFValueType.STRING, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32,
    gguf.GGUFValueType.INT32,
)  # fmt: skip


@pytest.mark.parametrize(
    ("key", "given", "words"),
    [
        ("model", value("bert", STRING), ["ggml.model", "'bert'"]),
        ("model", value(5, U32), ["ggml.model", "5"]),
        ("pre", value("mystery", STRING), ["ggml.pre", "'mystery'", "smollm"]),
        ("tokens", value("x", STRING), ["ggml.tokens", "array of strings"]),
        ("tokens", value([1, 2], ARRAY, I32), ["ggml.tokens", "array of strings"]),
        ("tokens", value(["a", "a"] * 150, ARRAY, STRING), ["ggml.tokens", "'a' appears twice"]),
        ("tokens", value(["\ud7ff"], ARRAY, STRING), ["bos_token_id", "0 to 0"]),
        ("token_type", value([1, 2], ARRAY, I32), ["token_type", "300 numbers"]),
        ("token_type", value([1.5] * 300, ARRAY, gguf.GGUFValueType.FLOAT32), ["token_type"]),
        ("merges", value(["ab"], ARRAY, STRING), ["merges", "two tokens", "'ab'"]),
        ("merges", value(["a zzz"], ARRAY, STRING), ["m.gguf"]),
        ("merges", value(7, U32), ["merges", "array of strings"]),
        ("bos_token_id", value(300, U32), ["bos_token_id", "299"]),
        ("eos_token_id", value(-1, I32), ["eos_token_id"]),
        ("add_bos_token", value(1, U32), ["add_bos_token", "True or False"]),
    ],
)
def test_what_a_tokenizer_cannot_be_is_refused(files, tmp_path, refused, key, given, words):
    def change(entries):
        entries[f"tokenizer.ggml.{key}"] = given

    path = edited(files, tmp_path, change)
    refused(lambda: Tokenizer(path), "m.gguf", *words)


def test_scores_that_are_missing_are_refused(files, tmp_path, refused):
    path = files.write(
        tmp_path / "m.gguf", words="scores",
        more=lambda writer: writer.kv_data[0].pop("tokenizer.ggml.scores"),
    )  # fmt: skip
    refused(lambda: Tokenizer(path), "tokenizer.ggml.scores", "found none")


def test_a_model_without_a_tokenizer_runs_on_ids(files, tmp_path, refused):
    def change(entries):
        for key in [key for key in entries if key.startswith("tokenizer.")]:
            del entries[key]

    path = edited(files, tmp_path, change)
    refused(lambda: Engine.from_pretrained(path, num_threads=1), "tokenizer.ggml.model")
    with Engine.from_pretrained(path, num_threads=1, skip_tokenizer_init=True) as engine:
        assert engine.pair.eos == frozenset()
        params = SamplingParams(temperature=0, max_tokens=4)
        assert len(engine.generate([1, 2], params)[0].outputs[0].token_ids) == 4


def test_a_tokenizer_json_beside_a_file_is_not_asked(files, tmp_path):
    """A tokenizer.json next to a GGUF file may belong to another model, so it must not be read."""
    path = files.write(tmp_path / "m.gguf")
    for name in ("tokenizer_config.json", "added_tokens.json", "generation_config.json"):
        (tmp_path / name).write_text(json.dumps({"eos_token": "x", "eos_token_id": 1}))
    with Engine.from_pretrained(path, num_threads=1) as engine:
        assert engine.pair.eos == {299}
