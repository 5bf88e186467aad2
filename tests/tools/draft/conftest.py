"""Fixtures for drafts: a tiny target, whose sizes are multiples of a quantised group of 32."""

import json

import pytest

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}answer:"
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16}


@pytest.fixture(scope="session")
def target(tmp_path_factory, make):
    """A target with two layers and a chat template. Its answers end after few tokens."""
    folder = tmp_path_factory.mktemp("target") / "target"
    make.checkpoint(folder, seed=5, eos_token_id=290, **SIZES)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def prompts_file(tmp_path):
    """A file with enough prompts for training and for the held-out set."""
    path = tmp_path / "prompts.jsonl"
    texts = [f"def f{i}(x):\n    return x + {i}" for i in range(48)]
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return path
