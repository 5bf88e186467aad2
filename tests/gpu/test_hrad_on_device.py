"""Contract under test: H-RAD in an engine for a CUDA device, on the stand-in. The classifier's
weights and inputs are in device memory, which faults when the host accesses it. The engine must cut
off drafts at the same nodes as the CPU's engine over the same recordings. No token may change."""

from dataclasses import replace
from functools import cache

import pytest

from sbrt import Engine, InvalidInputError, SamplingParams
from sbrt.model import hrad
from sbrt.serve.pair import load_pair

GAMMA = 3
GREEDY = SamplingParams(temperature=0, max_tokens=10)
PARAMS = {
    "greedy": GREEDY,
    "sampled": replace(GREEDY, temperature=0.8, seed=5),
    "both": replace(GREEDY, temperature=0.8, seed=6, top_p=0.9, repetition_penalty=1.2),
}
# (seed of the prompt, kind of PARAMS)
REQUESTS = ((0, "greedy"), (1, "greedy"), (0, "sampled"), (1, "both"))


@pytest.fixture(scope="module")
def method_of(checkpoints, random_classifier, tmp_path_factory):
    """Return a function of (family, favourite) that gives the method specbranch with a random
    classifier. If `favourite` is not None, the classifier always predicts this class."""
    folder = tmp_path_factory.mktemp("hrad")

    def call(family, favourite=None):
        pair = [checkpoint.folder for checkpoint in checkpoints[family]]
        path = folder / f"{family}-{favourite}"
        random_classifier(path, hrad.origin_of(GAMMA, *pair), favourite)
        return f"specbranch:gamma={GAMMA},k_max=3,epsilon=0.3,hrad={path}"

    return call


def config_of(tool, tools, checkpoints, family, device, method):
    pair = [checkpoint.folder for checkpoint in checkpoints[family]]
    return tool.config_of(pair, device, method, max_model_len=tools.max_len)


def shown(engine, tools, method=None):
    """Run all requests. For each request, return its tokens and the decisions of all its rounds."""
    found = []
    for seed, params in REQUESTS:
        [out] = engine.generate(tools.prompt(9, seed=seed), PARAMS[params], method=method)
        rounds = [(r.depth, r.n, r.branches, r.is_hit, r.tokens) for r in engine.rounds()]
        found.append((tuple(out.outputs[0].token_ids), tuple(rounds)))
    return found


def decided(found):
    """Return the results without the rounds of requests that have top_p.

    A draft on a device applies top_p to its candidates only. So chains may differ from the CPU's,
    but tokens may not.
    """
    filtered = [PARAMS[params].top_p < 1 for _, params in REQUESTS]
    return [
        (tokens, () if is_filtered else rounds)
        for (tokens, rounds), is_filtered in zip(found, filtered, strict=True)
    ]


@pytest.fixture(scope="module")
def plain_of(tools, tool, checkpoints, method_of):
    """Return a function of (family, dtype, method) that gives the results of `shown` without a
    classifier. The same engine first answers a request with the classifier."""

    @cache
    def call(family, dtype, method=None):
        own = method_of(family)
        method = method or own.split(",hrad")[0]
        config = config_of(tool, tools, checkpoints, family, "cuda", own)
        with Engine(replace(config, dtype=dtype), methods=[method]) as engine:
            engine.generate(tools.prompt(9), GREEDY)
            return shown(engine, tools, method)

    return call


def check_cuts(cut, plain, favourite):
    """Check that the classifier changes no token. Also check that `favourite`, the class that it
    predicts, decides how deep chains are."""
    assert [tokens for tokens, _ in cut] == [tokens for tokens, _ in plain]
    depths = {r[0] for _, rounds in cut for r in rounds}
    assert depths == {0} if favourite == 0 else GAMMA in depths


@pytest.mark.parametrize("family", ["Llama", pytest.param("Qwen3", marks=pytest.mark.exact)])
@pytest.mark.parametrize("favourite", [None, 0, 2])
def test_it_cuts_like_the_engine_on_the_cpu(
    tools, tool, stand_in, checkpoints, method_of, plain_of, family, favourite
):
    method = method_of(family, favourite)
    with Engine(config_of(tool, tools, checkpoints, family, "cuda", method)) as engine:
        cut = shown(engine, tools)
    config = config_of(tool, tools, checkpoints, family, "cpu", method)
    models = [tools.recorded(checkpoint) for checkpoint in checkpoints[family]]
    twins = replace(load_pair(config), target=models[0], draft=models[1])
    with Engine(config, pair=twins) as engine:
        assert decided(cut) == decided(shown(engine, tools))
    plain = plain_of(family, "float32")
    check_cuts(cut, plain, favourite)
    # Without a classifier, the draft's confidence decides where drafts are cut off.
    assert cut != plain


@pytest.mark.parametrize("favourite", [None, pytest.param(2, marks=pytest.mark.exact)])
def test_in_company_it_cuts_as_it_does_alone(
    tools, tool, stand_in, checkpoints, method_of, favourite
):
    """Four requests on three seats must have the same tokens and statistics as on one seat. Each
    seat has its own memory for the classifier."""
    method = method_of("Llama", favourite)
    prompts = [tools.prompt(9, seed=seed) for seed, _ in REQUESTS]
    found = []
    for seats in (1, 3):
        config = config_of(tool, tools, checkpoints, "Llama", "cuda", method)
        with Engine(replace(config, max_num_seqs=seats)) as engine:
            outputs = engine.generate(prompts, [PARAMS[params] for _, params in REQUESTS])
        answers = [output.outputs[0] for output in outputs]
        found.append([(answer.token_ids, answer.spec_decode_metrics) for answer in answers])
    alone, together = found
    assert [tokens for tokens, _ in together] == [tokens for tokens, _ in alone]
    for (_, own), (_, shared) in zip(alone, together, strict=True):
        for name in ("num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens"):
            assert shared[name] == own[name], name


@pytest.mark.parametrize("favourite", [pytest.param(0, marks=pytest.mark.exact), 2])
def test_halves_are_read_too(tools, tool, stand_in, checkpoints, method_of, plain_of, favourite):
    """With target, features and embedding in bfloat16, the predicted class must decide how deep
    chains are. No token may change."""
    method = method_of("Llama", favourite)
    config = config_of(tool, tools, checkpoints, "Llama", "cuda", method)
    with Engine(replace(config, dtype="bfloat16")) as engine:
        cut = shown(engine, tools)
    check_cuts(cut, plain_of("Llama", "bfloat16", "none"), favourite)


def test_nothing_is_unordered(tools, tool, stand_in, checkpoints, method_of):
    config = config_of(tool, tools, checkpoints, "Llama", "cuda", method_of("Llama"))
    with Engine(config) as engine:
        engine.generate(tools.prompt(70), GREEDY)
        order = stand_in.cores[-1][1].order
    names = {op[1] for op in order.ops()}
    assert {"hrad_features", "hrad_inner", "hrad_cut"} <= names
    assert "classify" not in names
    assert {said.split(":")[0] for said in order.conflicts()} <= {"record"}


def test_what_it_reads_stays_there(tools, tool, stand_in, checkpoints, method_of):
    config = config_of(tool, tools, checkpoints, "Llama", "cuda", method_of("Llama"))
    with Engine(config) as engine:
        engine.generate(tools.prompt(9), GREEDY)
        with pytest.raises(InvalidInputError, match=r"^features: expected an engine that keeps"):
            engine.features()


@pytest.mark.parametrize("with_hrad", [False, True])
def test_features_are_those_of_the_cpu(tools, tool, stand_in, checkpoints, method_of, with_hrad):
    """In every round the features must be those of the CPU's engine over the same recordings, with
    and without a classifier that reads them."""
    method = method_of("Llama", 2) if with_hrad else "specbranch:gamma=3,k_max=3"
    config = config_of(tool, tools, checkpoints, "Llama", "cuda", method)

    def kept(engine):
        found = []
        engine.add_request("kept", tools.prompt(9), PARAMS["sampled"])
        while engine.has_unfinished_requests():
            for out in engine.step():
                found.append((tuple(out.outputs[0].token_ids), engine.features().tobytes()))
        return found

    with Engine(config, keep_features=True) as engine:
        given = kept(engine)
    config = config_of(tool, tools, checkpoints, "Llama", "cpu", method)
    models = [tools.recorded(checkpoint) for checkpoint in checkpoints["Llama"]]
    twins = replace(load_pair(config), target=models[0], draft=models[1])
    with Engine(config, pair=twins, keep_features=True) as engine:
        assert given == kept(engine)
    assert len({features for _, features in given}) > 2
