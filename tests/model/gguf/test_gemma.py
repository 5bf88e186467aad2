"""Contract under test: sbrt reads a GGUF file of Gemma 3 as llama.cpp does. This includes values
that llama.cpp's converter does not write into the file."""

import numpy as np
import pytest
from gguf import GGUFValueType

from sbrt import Engine, SamplingParams
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.gguf.header import open_gguf
from sbrt.model.gguf.tokenizer import TURN_ENDS, end_ids
from sbrt.model.rope import Rope

SMALL = {"hidden": 32, "inner": 32, "heads": 2, "kv_heads": 1, "head_dim": 24}
PATTERN = "gemma3.attention.sliding_window_pattern"
WINDOW = "gemma3.attention.sliding_window"


def write(files, tmp_path, more=None, **sizes):
    return files.write(tmp_path / "m.gguf", arch="gemma3", more=more, **(SMALL | sizes))


def without(*keys):
    return lambda writer: [writer.kv_data[0].pop(key) for key in keys]


def with_flags(*flags, kind=GGUFValueType.BOOL):
    def more(writer):
        del writer.kv_data[0][PATTERN]
        writer.add_key_value(PATTERN, list(flags), GGUFValueType.ARRAY, kind)

    return more


def with_period(period):
    def more(writer):
        del writer.kv_data[0][PATTERN]
        writer.add_sliding_window_pattern(period)

    return more


@pytest.mark.parametrize(
    ("more", "local"),
    [
        (None, (True, False, True)),
        (without(PATTERN), (True, True, True)),
        (with_period(1), ()),
        (with_period(0), (True, True, True)),
        (with_flags(False, True, False), (False, True, False)),
        (without(PATTERN, WINDOW), ()),
    ],
)
def test_which_layers_have_a_window(files, tmp_path, more, local):
    config = open_checkpoint(write(files, tmp_path, more, layers=3)).config
    assert (config.local, config.window) == (local, 24 if local else 0)


def test_every_sixth_layer_is_global_where_the_file_does_not_say(files, tmp_path):
    config = open_checkpoint(write(files, tmp_path, without(PATTERN), layers=7)).config
    assert config.local == (*[True] * 5, False, True)


@pytest.mark.parametrize(("layers", "scalar"), [(2, 24), (62, 16)])
def test_the_scale_of_scores(files, tmp_path, layers, scalar):
    """The factor of attention scores comes from head_dim; in the 27B model it comes from hidden /
    heads. sbrt recognises the 27B model by its number of layers."""
    assert open_checkpoint(write(files, tmp_path, layers=layers)).config.query_scalar == scalar


def test_the_ropes_of_both_kinds(files, tmp_path):
    config = open_checkpoint(write(files, tmp_path)).config
    assert (config.rope_theta, config.local_theta) == (10000.0, 10000.0)

    def more(writer):
        writer.add_float32("gemma3.rope.freq_base_swa", 500.0)
        writer.add_string("gemma3.rope.scaling.type", "linear")
        writer.add_float32("gemma3.rope.scaling.factor", 8.0)

    config = open_checkpoint(write(files, tmp_path, more)).config
    assert (config.local_theta, config.rope, config.local_rope) == (
        500.0,
        Rope("linear", 8.0),
        Rope(),
    )
    assert config.max_positions == 128


def test_norms_hold_their_1_already(files, tmp_path):
    """Norm weights in a GGUF file are larger by 1 than those in a folder. File and folder must give
    the same answer in float32 arithmetic."""
    path = write(files, tmp_path)
    config = open_checkpoint(path).config
    assert not config.norm_offset
    assert config.post_norms
    assert config.gelu
    assert config.scaled_embedding
    folder = files.folder(tmp_path / "folder", [path])
    assert open_checkpoint(folder).config.norm_offset
    params = SamplingParams(temperature=0, max_tokens=80, ignore_eos=True)
    answers = []
    for model in (path, folder):
        with Engine.from_pretrained(model, num_threads=1, skip_tokenizer_init=True) as engine:
            answers.append(engine.generate([70, 75, 80], params)[0].outputs[0].token_ids)
    assert answers[0] == answers[1]


def refuse_softcapping(writer):
    writer.add_float32("gemma3.final_logit_softcapping", 30.0)


def refuse_divisors(writer):
    writer.add_tensor("rope_freqs.weight", np.ones(12, np.float32))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (refuse_softcapping, ["final_logit_softcapping", 30]),
        (refuse_divisors, ["rope_freqs.weight", "no such tensor"]),
        (with_flags(True), ["layer_types", "2 names"]),
        (with_flags(0.5, 0.5, kind=GGUFValueType.FLOAT32), [PATTERN, "integer"]),
        (with_flags("yes", "no", kind=GGUFValueType.STRING), [PATTERN, "yes"]),
    ],
)
def test_what_it_cannot_have_is_refused(files, tmp_path, refused, more, words):
    refused(lambda: open_checkpoint(write(files, tmp_path, more)), "m.gguf", *words)


@pytest.mark.parametrize("arch", ["gemma", "gemma2", "gemma3n"])
def test_its_sisters_are_refused(files, tmp_path, refused, arch):
    path = files.write(tmp_path / "m.gguf", arch=arch)
    refused(lambda: open_checkpoint(path), "general.architecture", arch)


# --- tokens that end a turn ---


@pytest.mark.parametrize("text", TURN_ENDS)
def test_a_turn_ends_at_a_token_that_only_its_text_names(files, tmp_path, text):
    """Token 299 is a control token, so its text can make it an end token. Token 298 is no control
    token, so its text cannot."""

    def more(writer, at=299, eot=None):
        tokens = writer.kv_data[0]["tokenizer.ggml.tokens"].value
        tokens[at] = text
        writer.kv_data[0]["tokenizer.ggml.eos_token_id"].value = 7
        if eot is not None:
            writer.add_eot_token_id(eot)

    def ends(**changes):
        path = write(files, tmp_path, lambda writer: more(writer, **changes))
        return end_ids(open_gguf(path), 300).keys()

    assert ends() == {7, 299}
    assert ends(eot=5) == {7, 5}
    assert ends(at=298) == {7}
