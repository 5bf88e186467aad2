"""Contract under test: a draft's folder shares embedding and head of a GGUF file in the file's
format, rows of quantised blocks. None of them is stored twice, and no answer changes."""

import json

import numpy as np
import pytest

from sbrt import Engine, EngineConfig, SamplingParams
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.draft import open_draft
from sbrt.model.safetensors_file import encode
from tests.common.trimmed import EMBED, HEAD, d2t

IDS = (*range(2, 220, 2), 241, 299)
METHODS = ("none", "draft_model", "specbranch", "draft_model:gamma=4")
LAWS = (
    SamplingParams(temperature=0, max_tokens=24, ignore_eos=True),
    SamplingParams(temperature=0.9, seed=2, max_tokens=24, ignore_eos=True),
)


def write_draft(files, folder, target, *, trims):
    """The target's layers in float32, without the shared weights. Trims: with a head of IDS."""
    files.folder(folder, [target])
    weights = files.dequantised([target])
    head = weights.get(HEAD, weights[EMBED])
    kept = {name: w for name, w in weights.items() if name not in (EMBED, HEAD)}
    fields = {"tie_word_embeddings": True}
    if trims:
        kept |= {HEAD: head[list(IDS)], "d2t": d2t(IDS)}
        fields = {"tie_word_embeddings": False, "draft_vocab_size": len(IDS)}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    (folder / "model.safetensors").write_bytes(encode(kept, {"format": "pt"}))
    return folder


def engine_of(target, draft, **fields):
    spec = {"model": draft, "method": "draft_model"}
    config = EngineConfig(target, num_threads=1, speculative=spec, **fields)
    return Engine(config, methods=METHODS)


def answers(engine, method):
    """The answers, and the number of accepted draft tokens."""
    found = [engine.generate(["def f(", "x ="], law, method=method) for law in LAWS]
    completions = [o.outputs[0] for outputs in found for o in outputs]
    accepted = sum(c.spec_decode_metrics["num_accepted_draft_tokens"] for c in completions)
    return [c.token_ids for c in completions], accepted


@pytest.mark.parametrize("trims", [True, False])
@pytest.mark.parametrize(("kind", "tied"), [("Q4_0", True), ("Q4_0", False), ("F16", True)])
def test_a_draft_of_a_file(files, tmp_path, kind, tied, trims):
    target = files.write(tmp_path / "m.gguf", kind=kind, tied=tied)
    draft = write_draft(files, tmp_path / "d", target, trims=trims)
    with engine_of(target, draft) as engine:
        want, _ = answers(engine, "none")
        for method in METHODS[1:]:
            got, accepted = answers(engine, method)
            assert got == want, method
            assert accepted > 0, method


def test_the_head_is_the_files(files, tmp_path):
    """A draft with all of the target's layers and its head always agrees with the target."""
    target = files.write(tmp_path / "m.gguf", kind="Q8_0")
    draft = write_draft(files, tmp_path / "d", target, trims=False)
    lender = open_checkpoint(target)
    opened = open_draft(draft, lender)
    borrower = opened.decoder("auto", target=lender.decoder("auto"))
    assert borrower.parameters == sum(np.prod(shape) for shape in opened.shapes.values())
    with engine_of(target, draft, activation_dtype="float32") as engine:
        tokens, accepted = answers(engine, "draft_model:gamma=4")
    assert accepted >= 0.75 * sum(map(len, tokens))
