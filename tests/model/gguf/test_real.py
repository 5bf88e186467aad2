"""Contract under test: SmolLM2-135M-Instruct in Q4_1 gives the same answers as its dequantised
weights, in sbrt and in transformers. The file is not in the repository (CONTRIBUTING.md).

`make test` compares only the model's first layers, which have the blocks and sizes of the file. The
long runs compare all layers. They take their prompts from the JSON lines in the file that
SBRT_PROMPTS names.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer as Library
from tokenizers import pre_tokenizers

from sbrt import Engine, EngineConfig, SamplingParams, SpeculativeConfig
from sbrt.methods import METHODS
from sbrt.model.gguf.header import open_gguf
from sbrt.model.gguf.tokenizer import chat_template
from sbrt.model.tokenizer import Tokenizer
from sbrt.tools.prompts import read_prompts

BUILD = Path(__file__).parents[3] / "build"
QUESTIONS = (
    "What is the capital of France?",
    "Write a Python function that sorts a list.",
    "Was ist ein Fahrrad?",
)
GAP = 1e-3  # transformers may differ where its two largest logits are closer than this
NEAR = 1e-4  # largest difference between log-probs
GREEDY = SamplingParams(temperature=0, max_tokens=16)
LAYERS = 6  # of 30


def chat(question):
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


SETTINGS = [{"dtype": "float32"}, {"activation_dtype": "float32"}]


@pytest.fixture(scope="module")
def scratch():
    """Return a temporary folder in the checkout, because the system's temporary folders may lie on
    a small file system."""
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def short(files, real, scratch):
    """Return the path of a file with the model's first layers."""
    return files.first_layers(real, scratch / "short.gguf", LAYERS)


@pytest.fixture(scope="module", params=SETTINGS, ids=str)
def answers(short, request):
    """Return [(prompt ids, answer ids)] of plain decoding in float32 arithmetic. The parameter
    decides if weights are unpacked to float32 or stay packed."""
    with Engine.from_pretrained(short, **request.param) as engine:
        assert engine.pair.eos == {2}
        outputs = engine.generate([chat(question) for question in QUESTIONS], GREEDY)
        return [(engine.encode(o.prompt), o.outputs[0].token_ids) for o in outputs]


@pytest.fixture(scope="module")
def folder(files, short, scratch):
    return files.folder(scratch / "short", [short])


def opened(folder):
    """Return the model in transformers, in float64. In float32, rounding errors of transformers
    would add to ours."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)


@pytest.fixture(scope="module")
def theirs(folder):
    return opened(folder)


@pytest.mark.parametrize("answers", SETTINGS[:1], indirect=True)
def test_answers_are_those_of_the_folder(answers, folder):
    with Engine.from_pretrained(folder, dtype="float32", skip_tokenizer_init=True) as engine:
        outputs = engine.generate([prompt for prompt, _ in answers], GREEDY)
    assert [o.outputs[0].token_ids for o in outputs] == [found for _, found in answers]


def test_answers_are_those_of_transformers(answers, theirs):
    near_ties(theirs, answers)


def test_log_probs_are_those_of_transformers(short, theirs):
    """The log-probs of prompts and answers must be close to those of transformers. Our weights are
    packed, our activations float32."""
    params = SamplingParams(temperature=0, max_tokens=16, logprobs=5, prompt_logprobs=5)
    with Engine.from_pretrained(short, activation_dtype="float32") as engine:
        prompts = [chat(question) for question in QUESTIONS]
        for output, prompt in zip(engine.generate(prompts, params), prompts, strict=True):
            [answer] = output.outputs
            trunk = [*engine.encode(prompt), *answer.token_ids]
            with torch.no_grad():
                dist = torch.log_softmax(theirs(torch.tensor([trunk])).logits[0], -1)
            positions = [*output.prompt_logprobs[1:], *answer.logprobs]
            assert len(positions) == len(trunk) - 1
            for row, position in zip(dist, positions, strict=False):
                for token, found in position.items():
                    assert abs(row[token].item() - found.logprob) < NEAR, (token, found)


def near_ties(theirs, answers):
    """Return the number of answers that differ from those of transformers. The first difference of
    an answer must be at a near-tie."""
    parted = 0
    for prompt, found in answers:
        with torch.no_grad():
            rows = theirs(torch.tensor([[*prompt, *found]])).logits[0].numpy()[len(prompt) - 1 : -1]
        for i in np.flatnonzero(rows.argmax(1) != found)[:1]:
            low, high = np.sort(rows[i])[-2:]
            assert high - low < GAP, f"token {i}: gap {high - low:.2e}"
            parted += 1
    return parted


def test_an_answer_makes_sense(real):
    with Engine.from_pretrained(real) as engine:
        [output] = engine.generate(chat(QUESTIONS[0]), GREEDY)
    assert "Paris" in output.outputs[0].text


def test_ids_are_those_of_its_kind(real):
    """The ids must be those of SmolLM2's tokenizer.json: the text is split at digits, then by
    GPT-2's pattern."""
    ours = Tokenizer(real)
    theirs = Library.from_str(ours._library.to_str())
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    for text in (*QUESTIONS, chat("x = 12345\n\t日本語 🙂\x00"), "  a  b\n\n c1 2"):
        assert ours.encode(text, 1000) == theirs.encode(text).ids


def test_its_chat_template_is_kept(real):
    assert "<|im_start|>" in chat_template(open_gguf(real))


# ---- long runs

PROMPTS, DRAFT_LAYERS = 40, 25
LONG = SamplingParams(temperature=0, max_tokens=128)


@pytest.fixture(scope="module")
def prompts(real):
    """Return lists of ids, one for each chat prompt."""
    path = os.environ.get("SBRT_PROMPTS")
    if path is None:
        pytest.skip("SBRT_PROMPTS: expected a file of JSON lines with prompts, found none")
    tokenizer = Tokenizer(real)
    found = [tokenizer.encode(chat(text), 10**6) for text in read_prompts(Path(path), PROMPTS)]
    assert len(found) == PROMPTS
    return found


def answered(engine, prompts, **more):
    return [o.outputs[0].token_ids for o in engine.generate(prompts, LONG, **more)]


@pytest.mark.exact
def test_many_answers_are_those_of_the_folder_and_of_transformers(files, real, scratch, prompts):
    folder = files.folder(scratch / "whole", [real])  # 540 MB
    with Engine.from_pretrained(real, activation_dtype="float32") as engine:
        found = answered(engine, prompts)
    with Engine.from_pretrained(folder, dtype="float32", skip_tokenizer_init=True) as engine:
        assert answered(engine, prompts) == found
    parted = near_ties(opened(folder), zip(prompts, found, strict=True))
    print(f"{parted} of {len(found)} answers leave those of transformers, at near-ties")


@pytest.fixture(scope="module")
def draft(files, real, tmp_path_factory):
    """Write a draft with the model's first layers, whose tokens are sometimes accepted. Return its
    path."""
    return files.first_layers(real, tmp_path_factory.mktemp("draft") / "draft.gguf", DRAFT_LAYERS)


@pytest.mark.exact
@pytest.mark.parametrize("activations", ["int8", "float32"])
def test_every_method_gives_the_tokens_of_none(real, draft, prompts, activations):
    config = EngineConfig(
        model=real,
        activation_dtype=activations,
        speculative=SpeculativeConfig(model=draft),
    )
    with Engine(config, methods=list(METHODS)) as engine:
        expected = answered(engine, prompts, method="none")
        for method in METHODS:
            outputs = engine.generate(prompts, LONG, method=method)
            assert [o.outputs[0].token_ids for o in outputs] == expected, method
            accepted = [o.outputs[0].spec_decode_metrics["draft_acceptance_rate"] for o in outputs]
            print(f"{method}: {sum(accepted) / len(accepted):.2f} of the draft tokens accepted")
