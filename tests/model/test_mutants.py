"""Contract under test: mutated config.json, safetensors headers and DecoderConfig are refused with
InvalidInputError, or load and generate. No loader allocates memory only because a size in a file is
large; a faulty loader that does so is caught. mutants.py has the limits. `make exact` runs five
times as many headers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("mutants.py")
GEMMA = "Gemma3ForCausalLM"
FAMILIES = (
    "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", GEMMA,
)  # fmt: skip
KINDS = {
    "layer_types": ["sliding_attention"], "sliding_window": 8, "query_pre_attn_scalar": 8,
    "rope_local_base_freq": 500.0, "sliding_window_pattern": 2, "attn_logit_softcapping": None,
    "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}},
}  # fmt: skip
SIZES = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 16, "max_position_embeddings": 64,
}  # fmt: skip


def run(make, folder, family, *words):
    """Run mutants.py in a child process, which has its own limits and peak of memory. Return (exit
    code, JSON summary, stdout)."""
    sizes = SIZES | (KINDS if family == GEMMA else {})
    make.checkpoint(folder, architectures=[family], **sizes)
    command = [sys.executable, SCRIPT, words[0], folder, *words[1:]]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stdout


@pytest.mark.parametrize("family", FAMILIES)
def test_mutated_configs(make, tmp_path, family):
    code, seen, said = run(make, tmp_path, family, "configs", "--count", 1250)
    assert code == 0, said
    assert seen["mutants"] == 1250
    assert seen["ran"] > 100
    assert seen["refused"] > 800


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.exact)])
@pytest.mark.parametrize("family", FAMILIES[1:3])
def test_mutated_headers(make, tmp_path, family, count):
    code, seen, said = run(make, tmp_path, family, "headers", "--count", count, "--seed", 1)
    assert code == 0, said
    assert seen["mutants"] == count
    assert seen["ran"] > 0.1 * count
    assert seen["refused"] > 0.6 * count


def test_mutated_sizes_of_the_core_alone(make, tmp_path):
    code, seen, said = run(make, tmp_path, FAMILIES[0], "core", "--count", 5000)
    assert code == 0, said
    # Valid configs are refused, too, because tensors are missing.
    assert seen["refused"] == 5000


def test_a_loader_that_allocates_what_a_header_claims_is_noticed(make, tmp_path):
    code, seen, said = run(make, tmp_path, FAMILIES[0], "headers", "--count", 300, "--canary")
    assert code == 1
    assert seen["escaped"] > 2
    assert "MemoryError" in said
