"""Contract under test: a draft's folder can use the embedding and the LM head of a target in a GGUF
file. Both matrices keep the file's quantised format, and are in memory only once. The draft changes
no answer."""

import json

import numpy as np
import pytest

from sbrt import Engine, EngineConfig, SamplingParams
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.draft import open_draft
from tests.common.trimmed import answers, head_fields, head_weights, write_draft

PROMPTS = ["def f(", "x ="]
IDS = (*range(2, 220, 2), 241, 299)
METHODS = ("none", "draft_model", "specbranch", "draft_model:gamma=4")
SAMPLINGS = (
    SamplingParams(temperature=0, max_tokens=24, ignore_eos=True),
    SamplingParams(temperature=0.9, seed=2, max_tokens=24, ignore_eos=True),
)


def draft_of_file(files, folder, target, *, trims):
    """Write a draft with the target's layers in float32, without an embedding. trims: if true, the
    draft has an LM head with rows for IDS; if false, it has none."""
    files.folder(folder, [target])
    config, ids = json.loads((folder / "config.json").read_text()), IDS if trims else None
    kept = head_weights(files.dequantised([target]), ids, embedding=False)
    return write_draft(folder, config | head_fields(ids), kept)


def engine_of(target, draft, **fields):
    spec = {"model": draft, "method": "draft_model"}
    config = EngineConfig(target, num_threads=1, speculative=spec, **fields)
    return Engine(config, methods=METHODS)


@pytest.mark.parametrize("trims", [True, False])
@pytest.mark.parametrize(("kind", "tied"), [("Q4_0", True), ("Q4_0", False), ("F16", True)])
def test_a_draft_of_a_file(files, tmp_path, kind, tied, trims):
    target = files.write(tmp_path / "m.gguf", kind=kind, tied=tied)
    draft = draft_of_file(files, tmp_path / "d", target, trims=trims)
    with engine_of(target, draft) as engine:
        want, *_ = answers(engine, PROMPTS, SAMPLINGS)
        for method in METHODS[1:]:
            got, _, accepted = answers(engine, PROMPTS, SAMPLINGS, method)
            assert got == want, method
            assert accepted > 0, method


def test_the_head_is_the_files(files, tmp_path):
    """A draft with the target's layers, embedding and LM head must nearly always agree with the
    target."""
    target = files.write(tmp_path / "m.gguf", kind="Q8_0")
    draft = draft_of_file(files, tmp_path / "d", target, trims=False)
    lender = open_checkpoint(target)
    opened = open_draft(draft, lender)
    borrower = opened.decoder("auto", target=lender.decoder("auto"))
    assert borrower.parameters == sum(np.prod(shape) for shape in opened.shapes.values())
    with engine_of(target, draft, activation_dtype="float32") as engine:
        found, _, accepted = answers(engine, PROMPTS, SAMPLINGS, "draft_model:gamma=4")
    assert accepted >= 0.75 * sum(len(tokens) for tokens, *_ in found)
