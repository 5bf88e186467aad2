"""Contract under test: a draft of recorded lanes may have a trimmed LM head, which has rows for
only some ids, or may share its target's embedding. Such a draft must change no answer, on the CPU
and on the stand-in for a device."""

import json
from dataclasses import replace

import pytest
from safetensors.numpy import load_file

from sbrt import Engine, SamplingParams
from sbrt.gpu.lane import model_of
from sbrt.model.draft import open_draft
from tests.common.trimmed import answers, head_fields, head_weights, write_draft

IDS = (*range(1, 30), *range(33, 60, 3), 66)
SAMPLED = SamplingParams(temperature=0.9, seed=5, max_tokens=8)
PARAMS = (
    replace(SAMPLED, temperature=0.0),
    SAMPLED,
    replace(SAMPLED, top_k=20, top_p=0.9, min_p=0.01),
    replace(SAMPLED, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.3,
            logit_bias={7: 2.5, 60: 3.0, 66: 2.0}, min_tokens=6, stop_token_ids=[3, 55]),
    replace(SAMPLED, allowed_token_ids=list(range(25, 50)), top_p=0.9),
    replace(SAMPLED, allowed_token_ids=[0, 64], temperature=0.0),  # neither id is in the LM head
)  # fmt: skip
METHODS = ("draft_model", "specbranch:k_max=3", "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4")
SHARES = (False, True)


def write(folder, checkpoint, *, shares, trims=True):
    """Write `target` again as a draft, and open the draft. trims: the LM head has rows for IDS
    only. shares: the draft has no embedding and uses the target's."""
    config = json.loads((checkpoint.folder / "config.json").read_text())
    weights, ids = load_file(checkpoint.folder / "model.safetensors"), IDS if trims else None
    kept = head_weights(weights, ids, embedding=not shares)
    return open_draft(write_draft(folder, config | head_fields(ids), kept), checkpoint)


@pytest.fixture(scope="module", params=SHARES, ids=["own embedding", "shared embedding"])
def pair(request, checkpoints, tmp_path_factory):
    """Return (target, draft); the draft is the target with a trimmed LM head."""
    [target, _] = checkpoints["Llama"]
    folder = tmp_path_factory.mktemp("trimmed") / "d"
    return target, write(folder, target, shares=request.param)


def test_an_engine_on_a_device(tools, tool, stand_in, pair):
    """A draft with a trimmed LM head changes no answer. Masks, bias and penalties of the requests
    include tokens that the LM head lacks."""
    prompt = [*tools.prompt(12), 0, 66, 1, 64]
    folders = [c.folder for c in pair]
    with Engine(replace(tool.config_of(folders, "cuda"), speculative=None)) as engine:
        want, *_ = answers(engine, [prompt], PARAMS)
    assert {token in IDS for tokens, *_ in want for token in tokens} == {True, False}
    with Engine(tool.config_of(folders, "cuda"), methods=METHODS) as engine:
        for method in ("none", *METHODS):
            got, _, accepted = answers(engine, [prompt], PARAMS, method)
            assert got == want, method
            assert (accepted > 0) == (method != "none")


def test_dists_on_the_cpu_and_recorded(tools, pair):
    """The CPU's own lanes and the recorded lanes must propose the same chains."""
    target, draft = pair
    found = []
    for recorded in (False, True):
        if recorded:
            lender = tools.recorded(target)
            models = lender, tools.recorded(draft, target=lender)
        else:
            lender = target.decoder("float32")
            models = lender, draft.decoder("float32", target=lender)
        play = tools.Play(*models)
        for temperature in (0.0, 0.8):
            answer = play.answer(tools.prompt(20), "specbranch:k_max=3", temperature, tokens=24)
            found.append((answer, play.counters()))
        play.close()
    assert found[:2] == found[2:]
    assert found[0][1][2] > 0  # number of accepted tokens


def test_a_head_that_is_the_targets(tools, checkpoints, tmp_path):
    [target, _] = checkpoints["Llama"]
    draft = write(tmp_path / "d", target, shares=True, trims=False)
    lender = tools.recorded(target)
    play = tools.Play(lender, tools.recorded(draft, target=lender))
    want = play.answer(tools.prompt(20), "none", 0.0)
    assert play.answer(tools.prompt(20), "draft_model", 0.0) == want
    rounds, drafted, accepted, *_ = play.counters()
    assert accepted == drafted > rounds
    play.close()


def test_an_embedding_of_another_dtype_is_refused(checkpoints, tmp_path, one_sentence):
    [target, _] = checkpoints["Llama"]
    draft = write(tmp_path / "d", target, shares=True)
    lender = model_of(target, device="cpu", dtype="bfloat16")
    words = ("lends its embedding in float32", "got bfloat16")
    one_sentence(lambda: model_of(draft, device="cpu", dtype="float32", target=lender), *words)
    one_sentence(lambda: model_of(draft, device="cpu"), "lends its embedding", "got none")
