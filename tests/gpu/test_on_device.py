"""Contract under test: an engine for a CUDA device, on the stand-in. It must answer every request
like the CPU's engine over the same recordings. Every launch uses the smallest graph that holds the
method's rows, of the kind that the request needs. Fences must order all accesses, and every wait
must be needed. The host must never access device memory. Unsupported settings are refused in one
sentence before a weight is read."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams, _core
from sbrt.serve.pair import load_pair
from sbrt.tools.cli import main

METHODS = (
    "none", "draft_model", "lookup:gamma=6", "adaedl", "pearl", "specbranch:k_max=3",
    "specbranch:k_max=3,on_miss=serial", "tree:gamma=3,width=4,nodes=12",
    "tree:gamma=3,width=4,nodes=12,lookup=1", "specbranch:k_max=3,lookup=1",
    "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4",
)  # fmt: skip
WAITS = {
    "none": set(),
    "draft_model": {"verify_done", "chain_ready"},
    "lookup:gamma=6": set(),
    "adaedl": {"verify_done", "chain_ready"},
    "pearl": {"verify_done", "draft_ready"},
    "specbranch:k_max=3": {"verify_done", "draft_ready"},
    "specbranch:k_max=3,on_miss=serial": {"verify_done", "chain_ready", "draft_ready"},
    "tree:gamma=3,width=4,nodes=12": {"verify_done", "chain_ready"},
    "tree:gamma=3,width=4,nodes=12,lookup=1": {"verify_done", "chain_ready"},
    "specbranch:k_max=3,lookup=1": {"verify_done", "draft_ready"},
    "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4": {
        "verify_done", "chain_ready", "draft_ready",
    },
}  # fmt: skip
FENCES = ("verify_done", "chain_ready", "draft_ready", "prefilled")
SHORT = SamplingParams(temperature=0, max_tokens=6)
GREEDY = SamplingParams(temperature=0, max_tokens=8)
SAMPLED = SamplingParams(temperature=0.8, seed=5, max_tokens=8)
PARAMS = {
    "greedy": GREEDY,
    "sampled": SAMPLED,
    "filtered": replace(SAMPLED, top_k=20, top_p=0.9, min_p=0.01),
    "shaped": replace(
        SAMPLED, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.3,
        logit_bias={7: 2.5, 11: -3.0}, min_tokens=6, stop_token_ids=[3, 4, 5],
    ),
    "shaped, greedy": replace(GREEDY, repetition_penalty=1.5, allowed_token_ids=list(range(40))),
    "both": replace(SAMPLED, top_p=0.8, repetition_penalty=1.2, min_tokens=4),
}  # fmt: skip


def folders(checkpoints, family):
    return [checkpoint.folder for checkpoint in checkpoints[family]]


def answers(engine, prompts, asked, params=None):
    """Run requests. Return {(method, kind of request): (tokens, finish reason)}. params: None, or
    the params of all requests instead of those of each kind."""
    found = {}
    for method, kind in asked:
        [out] = engine.generate(prompts[kind], params or PARAMS[kind], method=method)
        [answer] = out.outputs
        found[method, kind] = (answer.token_ids, answer.finish_reason)
    return found


SOME = [(METHODS[-1], kind) for kind in PARAMS] + [(method, "both") for method in METHODS[::2]]
ALL = [(method, kind) for method in METHODS for kind in PARAMS]


@pytest.mark.parametrize(
    ("family", "asked"),
    [
        ("Qwen3", SOME),
        *(
            pytest.param(family, ALL, marks=pytest.mark.exact)
            for family in ("Llama", "Mistral", "Qwen2", "Gemma3")
        ),
    ],
    ids=["Qwen3", "Llama-all", "Mistral-all", "Qwen2-all", "Gemma3-all"],
)
def test_it_answers_like_the_engine_on_the_cpu(tools, tool, stand_in, checkpoints, family, asked):
    pair = folders(checkpoints, family)
    prompts = {kind: tools.prompt(9 + i, seed=i) for i, kind in enumerate(PARAMS)}
    with Engine(tool.config_of(pair, "cuda", max_model_len=tools.max_len), methods=METHODS) as e:
        given = answers(e, prompts, asked)
    config = tool.config_of(pair, "cpu", max_model_len=tools.max_len)
    models = [tools.recorded(checkpoint) for checkpoint in checkpoints[family]]
    twins = replace(load_pair(config), target=models[0], draft=models[1])
    with Engine(config, pair=twins) as e:
        want = answers(e, prompts, [("none", kind) for kind in PARAMS])
    assert given == {(method, kind): want["none", kind] for method, kind in asked}
    assert len({tuple(tokens) for tokens, _ in want.values()}) == len(PARAMS)


def test_ids_that_no_token_has_never_come(tools, tool, stand_in, checkpoints):
    config = tool.config_of(folders(checkpoints, "Qwen2"), "cuda", max_model_len=tools.max_len)
    plain = load_pair(config)
    with Engine(config, pair=plain) as engine:
        [out] = engine.generate(tools.prompt(12), SAMPLED)
    holes = tuple(sorted(set(out.outputs[0].token_ids)))
    with Engine(config, pair=replace(plain, holes=holes)) as engine:
        found = [engine.generate(tools.prompt(12), p)[0].outputs[0] for p in (SAMPLED, GREEDY)]
    assert all(len(f.token_ids) == 8 and not set(f.token_ids) & set(holes) for f in found)


def test_the_runtime_has_the_device_that_was_named(tool, stand_in, checkpoints):
    pair = folders(checkpoints, "Llama")
    Engine(tool.config_of(pair, "cuda:3")).close()
    Engine(tool.config_of(pair, "cuda"), draft_first=False).close()
    given = [kept for kept, _ in stand_in.cores]
    assert [(g["device"], g["draft_first"]) for g in given] == [(3, True), (0, False)]
    assert stand_in.devices == ["cuda:3"] * 2 + ["cuda:0"] * 2


def test_the_default_method_is_one_that_runs_there(checkpoints):
    spec = {"model": folders(checkpoints, "Llama")[1]}
    assert EngineConfig("x", device="cuda", speculative=spec).method().text == "specbranch"
    assert EngineConfig("x", device="cuda").method().text == "none"
    assert EngineConfig("x", speculative=spec).method().text == "auto"


def test_the_command_line_names_the_device(stand_in, capsys):
    given = [
        "--device",
        "cuda:1",
        "--max-tokens",
        "3",
        "--prompt",
        "import os",
        "--dtype",
        "float32",
    ]
    assert main(["generate", *given]) == 0
    assert "specbranch" in capsys.readouterr().err
    assert stand_in.devices == ["cuda:1", "cuda:1"]
    assert main(["compare", *given, "--methods", "pearl", "--json", "-"]) == 0
    [line] = json.loads(capsys.readouterr().out)
    assert (line["device"], line["identical_to_none"], line["dtype"]) == ("cuda:1", True, "float32")


# --- graphs ---

# {method: (rows of the target's graphs for verification, rows of the draft's graphs for catch-up
# and steps)}
SIZES = {
    "none": ({16}, set()),
    "draft_model": ({16}, {4}),
    "adaedl": ({16}, {4}),
    "pearl": ({16}, {1}),
    "specbranch:k_max=3": ({16}, {1, 4}),
    "specbranch:k_max=3,on_miss=serial": ({16}, {1, 4}),
    "tree:gamma=3,width=4,nodes=12": ({16}, {4}),
    "tree:gamma=3,width=4,nodes=12,lookup=1": ({32}, {64}),
    "specbranch:k_max=3,lookup=1": ({32}, {4, 64}),
    "hedge:gamma=3,F=4,tree=0,on_miss=continue": ({16}, {1, 4}),
    "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4": ({16}, {16}),
    "hedge:gamma=3,F=4,tree=2,nodes=15,burst_width=4": ({16}, {16}),
    "hedge:gamma=3,F=1,tree=0,on_miss=lookup": ({16}, {1, 4}),
    "hedge:gamma=20,F=1,tree=2,nodes=3,on_miss=lookup": ({32}, {4, 64}),
    "lookup:gamma=20": ({32}, set()),
}
KINDS = ("forward", "choose")
ASKED = {  # {kind of request: (True if it filters tokens, True if it shapes logits)}
    "greedy": (False, False), "sampled": (False, False), "filtered": (True, False),
    "shaped": (False, True), "both": (True, True),
}  # fmt: skip


def picked(stand_in, engine, *asked):
    """Return the graphs that the launches of one answer picked, in order."""
    seen = len(stand_in.picks())
    engine.generate(*asked)
    return stand_in.picks()[seen:]


def sizes_taken(picks):
    """Return the numbers of rows of the graphs that rounds use: a set for the target, and a set for
    the draft."""
    run, chosen = ({(lane, said[1]) for lane, said in picks if said[0] == what} for what in KINDS)
    assert run - chosen <= {("target", 64), ("draft", 64)}  # prefill samples no token
    assert chosen <= run
    return tuple({rows for name, rows in chosen if name == lane} for lane in ("target", "draft"))


@pytest.mark.parametrize("method", SIZES)
def test_a_launch_takes_the_smallest_graph_that_fits(tools, tool, stand_in, checkpoints, method):
    """The picked graphs must have the sizes in SIZES. With default settings the context has the
    checkpoint's length. The first answer may fill the context."""
    with Engine(tool.config_of(folders(checkpoints, "Llama"), "cuda", method)) as engine:
        assert engine.max_model_len == tools.max_len
        engine.add_request("endless", tools.prompt(9), replace(SHORT, max_tokens=None))
        for _ in range(3):
            engine.step()
        engine.abort_request("endless")
        engine.step()
        assert sizes_taken(stand_in.picks()) == SIZES[method]
        picks = picked(stand_in, engine, tools.prompt(9), SHORT)
        assert sizes_taken(picks) == SIZES[method]


# At the end of the context the draft may have to catch up with a whole chain. {method: rows of the
# draft's graphs in such an answer}
AT_THE_END = {
    "draft_model": {4},
    "pearl": {1, 16},
    "specbranch:k_max=3": {1, 4, 16},
    "tree:gamma=3,width=4,nodes=12": {4},
    "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4": {16},
}


@pytest.mark.parametrize("method", AT_THE_END)
def test_a_draft_at_its_limit_takes_larger_graphs(tools, tool, stand_in, checkpoints, method):
    """The host waits for one outcome before it picks larger graphs. The answer must be that of
    plain decoding."""
    pair = folders(checkpoints, "Llama")
    endless = replace(GREEDY, max_tokens=None)
    with Engine(tool.config_of(pair, "cuda", method, max_model_len=48), methods=["none"]) as engine:
        prompt = tools.prompt(20)
        plain = answers(engine, {"x": prompt}, [("none", "x")], endless)
        before = len(stand_in.picks())
        found = answers(engine, {"x": prompt}, [(method, "x")], endless)
        picks = stand_in.picks()[before:]
    assert found[method, "x"] == plain["none", "x"]
    assert len(found[method, "x"][0]) == 28
    assert sizes_taken(picks)[1] == AT_THE_END[method]


def test_a_choice_is_of_the_kind_that_the_request_asks_for(tools, tool, stand_in, checkpoints):
    pair = folders(checkpoints, "Llama")
    config = tool.config_of(pair, "cuda", "pearl", max_model_len=tools.max_len)
    with Engine(config) as engine:
        for kind, (filters, shapes) in ASKED.items():
            params = replace(PARAMS[kind], max_tokens=6)
            picks = picked(stand_in, engine, tools.prompt(9), params)
            kinds = {(lane, *said[2:]) for lane, said in picks if said[0] == "choose"}
            assert kinds == {(lane, filters, shapes) for lane in ("target", "draft")}, kind


def test_every_size_is_recorded_once_for_every_kind(tool, stand_in, checkpoints):
    Engine(tool.config_of(folders(checkpoints, "Llama"), "cuda")).close()
    for capture in stand_in.captures:
        made = Counter(map(capture.said, capture.tapes))
        for rows in capture.lane.sizes:
            assert made["forward", rows] == (2 if rows == 64 else 1)  # prefill needs no logits
            for filters in (False, True):
                for shapes in (False, True):
                    assert made["choose", rows, filters, shapes] == 1


# --- order ---


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_unordered_and_every_wait_is_needed(tools, tool, stand_in, checkpoints, method):
    pair = folders(checkpoints, "Llama")
    config = tool.config_of(pair, "cuda", method, max_model_len=tools.max_len)
    with Engine(config) as engine:
        engine.generate([tools.prompt(70), tools.prompt(9)], [SHORT, PARAMS["both"]])
        order = stand_in.cores[-1][1].order
    assert len(order) > 100
    ahead = rounds_ahead(order)
    assert ahead <= 1
    assert order.conflicts() == []
    for fence in FENCES:
        found = order.conflicts(without=[fence])
        kept_by_host = fence == "verify_done" and not ahead
        assert bool(found) == (fence in WAITS[method] and not kept_by_host), (fence, found[:3])
    target, draft = (set(order.written_by(stream)) for stream in (1, 2))
    assert target & draft <= {"chain", "rank"}


def rounds_ahead(order):
    """Return the largest number of rounds that the host enqueued before it read earlier records."""
    recorded = seen = most = 0
    for op in order.ops():
        if op[1:3] == ("record", "verify_done"):
            recorded = op[3]
            most = max(most, recorded - seen)
        elif op[:3] == ("host", "wait", "verify_done"):
            seen = op[3]
    return most - 1


# --- without graphs ---


def test_without_graphs_it_answers_alike_and_fuses_nothing(tools, tool, stand_in, checkpoints):
    pair = folders(checkpoints, "Llama")
    found, launched = [], []
    for eager in (False, True):
        config = tool.config_of(
            pair, "cuda", "pearl", max_model_len=tools.max_len, enforce_eager=eager
        )
        with Engine(config) as engine:
            found.append(answers(engine, {"both": tools.prompt(9)}, [("pearl", "both")]))
            order = stand_in.cores[-1][1].order
            launched.append({name for stream, name in order.launches() if stream == "draft"})
    assert found[0] == found[1]
    assert "burst" in launched[0]
    assert "step" not in launched[0]
    assert "step" in launched[1]
    assert "burst" not in launched[1]


# --- memory ---


@pytest.mark.parametrize(
    ("what", "code"), [("run", 0), ("block", -11), ("arena", -11)], ids=["run", "block", "arena"]
)
def test_the_host_reaches_for_nothing_of_the_device(tools, tmp_path, what, code):
    """A run that stays off the device's memory ends well. `block` and `arena` access this memory,
    and must kill the process."""
    small = {"hidden_size": 64, "num_hidden_layers": 1}  # each tensor then covers whole pages
    for name, noise in (("t", 0.0), ("d", 0.03)):
        tools.write(tmp_path / name, noise=noise, **small)
    program = Path(__file__).with_name("stand_in.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path, what], capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert (done.stdout.strip() == "ended") == (code == 0)


# --- refusals ---


def test_a_rule_that_the_engine_was_not_built_for(tools, tool, stand_in, checkpoints):
    pair, method = folders(checkpoints, "Llama"), "pearl:acceptance=rejection"
    said = rf"^method {method}: expected acceptance coupled, as the engine was built for, got rej"
    with (
        Engine(tool.config_of(pair, "cuda")) as engine,
        pytest.raises(InvalidInputError, match=said),
    ):
        engine.add_request("r", tools.prompt(5), SAMPLED, method=method)


def test_what_is_not_there_is_refused(tool, stand_in, checkpoints):
    config = tool.config_of(folders(checkpoints, "Llama"), "cuda")
    with pytest.raises(InvalidInputError, match=r"^device cuda: expected the clock"):
        Engine(config, costs=object())
    assert not stand_in.devices  # no weight was read


def test_recordings_for_the_cpu_are_refused_on_a_device(tools, checkpoints):
    model = tools.recorded(checkpoints["Llama"][0])
    with pytest.raises(_core.EngineError, match="expected pieces recorded for a device"):
        _core.EngineCore(model, None, max_model_len=100, backend="dry_cuda")


def test_a_lane_without_a_form_for_a_device_is_refused():
    said = "^graph settle: expected ops with a kernel, .* none on cuda$"
    with pytest.raises(InvalidInputError, match=said):
        _core.EngineCore(_core.Toy(vocab=32), None, max_model_len=100, backend="dry_cuda")
