"""Contract under test: a draft of recorded lanes may have fewer tokens than its target. It must
change no answer, on the CPU and on a stand-in for a device."""

from dataclasses import replace

import pytest

from sbrt import Engine, SamplingParams
from tests.common.trimmed import answers

KNOWN = 50  # size of the draft's vocabulary; the target has 67 tokens
SAMPLED = SamplingParams(temperature=0.9, seed=5, max_tokens=8)
PARAMS = (
    replace(SAMPLED, temperature=0.0),
    SAMPLED,
    replace(SAMPLED, top_k=20, top_p=0.9, min_p=0.01),
    replace(SAMPLED, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.3,
            logit_bias={7: 2.5, 60: 3.0}, min_tokens=6, stop_token_ids=[3, 55]),
    replace(SAMPLED, allowed_token_ids=list(range(40, 60)), top_p=0.9),
    replace(SAMPLED, allowed_token_ids=[KNOWN, 66], temperature=0.0),
    # The text repeats a token that the draft does not have, so that prompt lookup proposes it.
    replace(SAMPLED, logit_bias={60: 30.0}, frequency_penalty=0.01, temperature=0.0),
)  # fmt: skip
METHODS = (
    "draft_model", "specbranch:k_max=3", "hedge:gamma=3,F=1,tree=0,on_miss=lookup",
    "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4",
)  # fmt: skip


FAMILIES = ("Llama", "Mistral")  # Mistral has a separate LM head, and a window


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tools, checkpoints, tmp_path_factory):
    """Return (target, draft); the draft is the target without its last rows of embedding and LM
    head."""
    [target, _] = checkpoints[request.param]
    folder = tmp_path_factory.mktemp("fewer") / request.param
    return target, tools.write_fewer(folder, target, KNOWN)


@pytest.mark.parametrize(
    "pair", ["Llama", pytest.param("Mistral", marks=pytest.mark.exact)], indirect=True
)
def test_an_engine_on_a_device(tools, tool, stand_in, pair):
    """A draft with fewer tokens changes no answer. The prompt has tokens that the draft does not
    have. One request allows only such tokens."""
    prompt = [*tools.prompt(12), KNOWN, 66, 1, 66]
    alone = replace(tool.config_of([c.folder for c in pair], "cuda"), speculative=None)
    with Engine(alone) as engine:
        want, *_ = answers(engine, [prompt], PARAMS)
    assert {token >= KNOWN for tokens, *_ in want for token in tokens} == {True, False}
    with Engine(tool.config_of([c.folder for c in pair], "cuda"), methods=METHODS) as engine:
        for method in ("none", *METHODS):
            got, drafted, _ = answers(engine, [prompt], PARAMS, method)
            assert got == want, method
            assert (drafted > 0) == (method != "none")


@pytest.mark.parametrize(
    ("pair", "temperature"),
    [
        ("Llama", 0.9),
        ("Mistral", 0.0),
        pytest.param("Llama", 0.0, marks=pytest.mark.exact),
        pytest.param("Mistral", 0.9, marks=pytest.mark.exact),
    ],
    indirect=["pair"],
)
def test_recordings_on_the_cpu(tools, pair, temperature):
    prompt = [*tools.prompt(12), KNOWN, 66, 1, 66]
    play, alone = tools.Play(*map(tools.recorded, pair)), tools.Play(tools.recorded(pair[0]), None)
    want = alone.answer(prompt, "none", temperature)
    for method in ("none", *METHODS):
        assert play.answer(prompt, method, temperature) == want
    assert play.core.seat(0).stats.accepted > 0
    play.close()
    alone.close()


def test_a_dist_of_fewer_tokens_on_the_cpu_and_recorded(tools, pair):
    """The CPU's own lanes and the recorded lanes must propose the same chains."""
    counters = []
    for models in (
        [c.decoder("float32") for c in pair],
        [tools.recorded(c) for c in pair],
    ):
        play = tools.Play(*models)
        play.answer(tools.prompt(20), "specbranch:k_max=3", 0.0, tokens=24)
        counters.append(play.counters())
        play.close()
    assert counters[0] == counters[1]
    assert counters[0][1] > 0  # number of drafted tokens
