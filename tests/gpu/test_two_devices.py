"""Contract under test: an engine whose draft has a CUDA device of its own, or is on the CPU. On the
stand-in, the memory of one device faults for the ops of the other device. The engine must answer
like an engine on one device, with one seat and with three. Every message between the lanes and
every fence must be needed. Options that a draft on the CPU does not support are refused before a
weight is read."""

from dataclasses import replace

import pytest
from safetensors.numpy import load_file, save_file

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams
from sbrt._core import ON_HOST
from sbrt.tools.cli import main

METHODS = (
    "draft_model", "specbranch:k_max=3,on_miss=serial", "tree:gamma=3,width=4,nodes=12",
    "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4",
)  # fmt: skip
SAMPLED = SamplingParams(temperature=0.8, seed=5, max_tokens=8)
REQUESTS = (
    replace(SAMPLED, temperature=0),
    replace(SAMPLED, top_p=0.9, repetition_penalty=1.3, presence_penalty=0.4, min_tokens=4),
)
MAILS = ("verdict", "burst", "offer")
FENCES = ("verify_done", "chain_ready", "draft_ready")


def folders(checkpoints):
    return [checkpoint.folder for checkpoint in checkpoints["Llama"]]


def answers(tools, config, methods, seats):
    found = {}
    with Engine(config, methods=METHODS) as engine:
        for method in methods:
            prompts = [tools.prompt(9 + seat, seed=seat) for seat in range(seats)]
            for number, params in enumerate(REQUESTS):
                out = engine.generate(prompts, params, method=method)
                found[method, number] = [answer.outputs[0].token_ids for answer in out]
    return found


@pytest.mark.parametrize("draft", ["cuda:1", "cpu"])
@pytest.mark.parametrize("seats", [1, 3])
def test_it_answers_like_one_device(tools, tool, stand_in, checkpoints, seats, draft):
    sizes = {"max_model_len": tools.max_len, "max_num_seqs": seats}
    plain = answers(tools, tool.config_of(folders(checkpoints), "cuda", **sizes), ["none"], seats)
    config = tool.config_of(folders(checkpoints), "cuda", draft_device=draft, **sizes)
    found = answers(tools, config, METHODS, seats)
    numbers = range(len(REQUESTS))
    assert found == {(method, i): plain["none", i] for method in METHODS for i in numbers}
    assert stand_in.devices == ["cuda:0"] * 3 + [draft] * (draft != "cpu")
    place = ON_HOST if draft == "cpu" else 1
    assert [given["draft_device"] for given, _ in stand_in.cores] == [-1, place]
    order = stand_in.cores[-1][1].order
    assert order.conflicts() == []
    assert all(order.conflicts(without=[mail]) for mail in MAILS)
    assert all(order.conflicts(without=[fence], host=False) for fence in FENCES)


def test_a_draft_on_the_cpu_uses_all_threads(tool, checkpoints):
    config = tool.config_of(folders(checkpoints), "cuda", draft_device="cpu")
    assert (config.is_apart, config.drafts_on_cpu) == (True, True)
    assert config.threads() == (2, 2)
    assert replace(config, draft_threads=1).threads() == (2, 1)
    with pytest.raises(InvalidInputError, match=r"^draft_threads: expected at most 2 of 2 threads"):
        replace(config, draft_threads=3)


def test_a_draft_on_the_cpu_has_formats_of_the_cpu(tool, checkpoints):
    said = r"^SpeculativeConfig.dtype: expected one of auto, float32, .* got 'float16'$"
    config = tool.config_of(folders(checkpoints), "cuda", draft_device="cpu")
    with pytest.raises(InvalidInputError, match=said):
        replace(config, dtype="float16")
    own = replace(config.speculative, dtype="bfloat16")
    assert replace(config, dtype="float16", speculative=own).draft_dtype == "bfloat16"


def test_a_draft_without_an_embedding_needs_its_target_on_the_cpu(tools, tool, stand_in, tmp_path):
    target, draft = tools.write(tmp_path / "t"), tools.write(tmp_path / "d")
    weights = load_file(draft.folder / "model.safetensors")
    del weights["model.embed_tokens.weight"]
    save_file(weights, draft.folder / "model.safetensors")
    config = tool.config_of([target.folder, draft.folder], "cuda", draft_device="cpu")
    with pytest.raises(InvalidInputError, match=r"expected a target on the CPU that lends"):
        Engine(config)


def test_a_draft_on_the_device_of_the_target_shares_its_memory(tool, checkpoints):
    config = tool.config_of(folders(checkpoints), "cuda:1", draft_device="cuda:1")
    assert (config.draft_index, config.is_apart) == (1, False)
    assert not EngineConfig("x", device="cuda").is_apart


def test_another_kind_of_device_is_refused():
    spec = {"model": "y", "device": "cuda:1"}
    said = "^SpeculativeConfig.device: expected cpu with a target on a CPU, got cuda:1$"
    with pytest.raises(InvalidInputError, match=said):
        EngineConfig("x", speculative=spec)
    with pytest.raises(
        InvalidInputError, match=r"^SpeculativeConfig.device 'rocm': not built yet$"
    ):
        EngineConfig("x", device="cuda", speculative=spec | {"device": "rocm"})


GIVEN = ["--max-tokens", "3", "--prompt", "import os", "--dtype", "float32", "--method", "pearl"]


def test_the_command_line_names_the_device_of_the_draft(stand_in, capsys):
    given = [*GIVEN, "--device", "cuda", "--draft-device", "cuda:1"]
    assert main(["generate", *given]) == 0
    assert stand_in.devices == ["cuda:0", "cuda:1"]
    assert stand_in.cores[-1][0]["draft_device"] == 1
    capsys.readouterr()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--draft-device", "cuda:1"], "SpeculativeConfig.device: expected cpu with a target"),
        (["--draft", "none", "--method", "none", "--draft-device", "cuda:1"], "--draft-device: "),
        (["--draft", "random", "--draft-device", "cuda:1"], "--draft-device: expected a draft"),
        (["--method", "none", "--draft-device", "cuda:1"], "--draft-device: expected a draft"),
        (["--draft-device", "tpu"], "SpeculativeConfig.device 'tpu': not built yet"),
    ],
)
def test_a_device_that_no_draft_has_is_refused(capsys, given, said):
    assert main(["generate", *GIVEN, *given]) == 2
    assert capsys.readouterr().err.startswith(f"sbrt: error: {said}")
