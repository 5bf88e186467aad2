"""Contract under test: SamplingParams.logprobs and prompt_logprobs mean what they mean in vLLM.
They come from the model's own distribution; for the demo target, transformers computes the same.
All methods give the same bits. Seats, threads, streams and single steps do not change them."""

import asyncio
import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sbrt import AsyncEngine, Engine, EngineConfig, InvalidInputError, Logprob, SamplingParams
from sbrt.async_engine import RequestOutputKind
from sbrt.methods import METHODS
from sbrt.model import names

PROMPT = "def quicksort(items):\n"
ODD = "print('naïve café, 日本語 🙂🚀')"  # some tokens are parts of characters
ASKED = SamplingParams(temperature=0.7, seed=4, max_tokens=24, logprobs=3, prompt_logprobs=2)
SHAPED = {"repetition_penalty": 1.3, "top_k": 5, "top_p": 0.8, "logit_bias": {11: 3.0}}


def demo_engine(methods=("specbranch",), **fields):
    target, (draft, _) = names.target_folder("demo"), names.draft_of("demo")
    speculative = {"model": draft, "method": methods[-1]}
    config = EngineConfig(model=target, speculative=speculative, **fields)
    return Engine(config, methods=methods)


@pytest.fixture(scope="module")
def demo():
    with demo_engine(METHODS, num_threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def model():
    folder = names.target_folder("demo")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def told(output):
    """Return (token ids, their log-probs, the sum of these, the prompt's log-probs) of an
    output."""
    [answer] = output.outputs
    return answer.token_ids, answer.logprobs, answer.cumulative_logprob, output.prompt_logprobs


def asked(engine, prompt=PROMPT, params=ASKED, **more):
    [output] = engine.generate(prompt, params, **more)
    return told(output)


def test_the_shape_is_vllms(demo):
    [output] = demo.generate(PROMPT, ASKED)
    [answer] = output.outputs
    assert len(answer.logprobs) == len(answer.token_ids) == 24
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
    lists = (answer.token_ids, answer.logprobs, 3), (output.prompt_token_ids[1:],
                                                     output.prompt_logprobs[1:], 2)  # fmt: skip
    sizes = set()
    for ids, positions, top in lists:
        for token, position in zip(ids, positions, strict=True):
            assert next(iter(position)) == token
            ranks = sorted(found.rank for found in position.values())
            assert ranks[:top] == list(range(1, top + 1))
            sizes.add(len(position) - top)
            best = sorted(position.values(), key=lambda found: found.rank)
            assert [f.logprob for f in best] == sorted((f.logprob for f in best), reverse=True)
            assert all(isinstance(f, Logprob) and f.logprob <= 0 for f in best)
    assert sizes == {0, 1}  # 1: the sampled token is not among the top tokens
    firsts = [p[t].logprob for p, t in zip(answer.logprobs, answer.token_ids, strict=True)]
    assert answer.cumulative_logprob == sum(firsts)


def test_who_does_not_ask_is_told_nothing(demo):
    params = dataclasses.replace(ASKED, logprobs=None, prompt_logprobs=None)
    ids, *nothing = asked(demo, params=params)
    assert nothing == [None, None, None]
    assert ids == asked(demo)[0]


def test_zero_is_the_token_alone(demo):
    params = dataclasses.replace(ASKED, logprobs=0, prompt_logprobs=0)
    ids, positions, _, prompt = asked(demo, params=params)
    assert [list(position) for position in positions] == [[token] for token in ids]
    assert [list(p) for p in prompt[1:]] == [[t] for t in demo.encode(PROMPT)[1:]]


def test_all_of_them_are_a_distribution():
    with demo_engine(num_threads=1, max_logprobs=-1) as engine:
        params = dataclasses.replace(ASKED, logprobs=-1, prompt_logprobs=-1, max_tokens=3)
        _, positions, _, prompt = asked(engine, params=params)
        vocab = engine.pair.vocab - len(engine.pair.holes)
    for position in (*positions, *prompt[1:]):
        assert len(position) == vocab
        assert sum(math.exp(f.logprob) for f in position.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
@pytest.mark.parametrize(("value", "words"), [(21, "got 21"), (-1, "all")])
def test_more_than_the_engine_allows_is_refused(demo, name, value, words):
    with pytest.raises(InvalidInputError, match=f"^{name}: expected at most 20 .*{words}"):
        demo.generate(PROMPT, SamplingParams(**{name: value}))


@pytest.mark.parametrize("method", [m for m in METHODS if m != "none"])
@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0}, SHAPED], ids=["sampled", "greedy", "bent"]
)
def test_every_method_has_the_bits_of_plain_decoding(demo, method, sampling):
    params = dataclasses.replace(ASKED, **sampling)
    assert asked(demo, params=params, method=method) == asked(demo, params=params, method="none")


def test_company_and_threads_change_no_bit(demo):
    prompts = [PROMPT, ODD, "import os\n\n", "x", PROMPT + ODD]
    alone = [asked(demo, prompt, method="none") for prompt in prompts]
    for threads in (1, 2):
        with demo_engine(num_threads=threads, max_num_seqs=3) as engine:
            assert [told(out) for out in engine.generate(prompts, ASKED)] == alone


def test_they_are_those_of_transformers_whatever_bends_the_row(demo, model):
    params = dataclasses.replace(ASKED, **SHAPED, min_tokens=3)
    ids, positions, _, prompt = asked(demo, PROMPT + ODD, params)
    trunk = [*demo.encode(PROMPT + ODD), *ids]
    with torch.no_grad():
        sampling = torch.log_softmax(model(torch.tensor([trunk])).logits[0].double(), -1).numpy()
    worst = 0.0
    for row, position in zip(sampling, [*prompt[1:], *positions], strict=False):
        for token, found in position.items():
            worst = max(worst, abs(row[token] - found.logprob))
        (token, first), *_ = position.items()
        assert first.rank <= 1 + np.count_nonzero(row > row[token] - 1e-4)
        assert first.rank >= 1 + np.count_nonzero(row > row[token] + 1e-4)
    assert worst < 1e-4
    assert len(positions) == 24


def test_tokens_are_decoded_as_they_stand_in_text(demo):
    ids, positions, _, prompt = asked(demo, ODD)
    texts = [f.decoded_token for p in prompt[1:] for f in list(p.values())[:1]]
    whole = "".join(texts)
    assert "\ufffd" in whole  # a token is only a part of the emoji
    data = b"".join(map(demo.pair.tokenizer.bytes_of, demo.encode(ODD)))
    assert data.decode() == ODD
    first = positions[0][ids[0]].decoded_token
    assert demo.pair.tokenizer.decode(ids).startswith(first)


def test_those_of_a_prompt_are_a_list_that_is_made_when_it_is_read(demo):
    [output] = demo.generate(PROMPT, ASKED)
    found = output.prompt_logprobs
    plain = list(found)
    assert found == plain
    assert found != plain[:-1]
    assert found[-1] == plain[-1] == found[len(found) - 1]
    assert (found[1:3], found[::-1], repr(found)) == (plain[1:3], plain[::-1], repr(plain))
    with pytest.raises(IndexError):
        found[len(found)]
    again = pickle.loads(pickle.dumps(output))
    assert (again.prompt_logprobs, again) == (plain, output)


def test_a_prompt_alone(demo):
    """lm-eval asks for the likelihood of a given text. The answer then has no tokens."""
    [output] = demo.generate(PROMPT, dataclasses.replace(ASKED, max_tokens=0))
    assert told(output)[0] == []
    assert output.outputs[0].finish_reason == "length"
    assert output.finished
    assert (output.outputs[0].text, output.outputs[0].logprobs) == ("", [])
    assert output.prompt_logprobs == asked(demo)[3]
    end = dataclasses.replace(ASKED, max_tokens=0, stop_token_ids=asked(demo)[0][:1])
    assert demo.generate(PROMPT, end)[0].outputs[0].finish_reason == "length"


def test_the_longest_prompt(demo):
    ids = (demo.encode(PROMPT) * 400)[: demo.max_model_len - 1]
    found = asked(demo, ids, dataclasses.replace(ASKED, max_tokens=0))[3]
    assert len(found) == len(ids)


def test_a_prompt_that_is_known_is_fed_anew(demo):
    demo.generate(PROMPT * 10, ASKED)
    [output] = demo.generate(PROMPT * 10, ASKED)
    assert output.num_cached_tokens == 0
    [plain] = demo.generate(PROMPT * 10, dataclasses.replace(ASKED, prompt_logprobs=None))
    assert plain.num_cached_tokens > 0
    assert told(plain)[:3] == told(output)[:3]


def test_a_stop_string_cuts_them_with_the_tokens(demo):
    text = demo.generate(PROMPT, ASKED)[0].outputs[0].text
    ids, positions, total, _ = asked(demo)
    cut = 0
    for begin in range(2, len(text) - 6, 3):
        params = dataclasses.replace(ASKED, stop=text[begin : begin + 4])
        for method in ("draft_model", "hedge"):
            [output] = demo.generate(PROMPT, params, method=method)
            n = len(output.outputs[0].token_ids)
            assert told(output)[:2] == (ids[:n], positions[:n])
            cut += n < len(ids) and total != output.outputs[0].cumulative_logprob
    assert cut > 4


@pytest.mark.parametrize("method", ["none", "specbranch", "auto"])
def test_steps_are_cumulative_and_their_deltas_add_up(demo, method):
    expected = asked(demo, method="none")
    demo.add_request("r", PROMPT, ASKED, method=method)
    outputs = []
    while demo.has_unfinished_requests():
        outputs += demo.step()
    seen, snapshots = [], []
    for output in outputs:
        [answer] = output.outputs
        assert len(output.delta_logprobs) == len(output.delta_token_ids)
        seen += output.delta_logprobs
        snapshots.append((answer, len(answer.token_ids)))
        assert output.prompt_logprobs == expected[3]
    assert seen == expected[1]
    for answer, n in snapshots:  # the answers of earlier outputs do not change
        assert answer.logprobs == expected[1][:n]
        assert pickle.loads(pickle.dumps(answer)) == answer
    assert told(outputs[-1]) == expected
    assert [told(out) for out in demo.stream(PROMPT, ASKED)][-1] == expected


def test_an_abort_keeps_what_has_come(demo):
    stream = demo.stream(PROMPT, dataclasses.replace(ASKED, max_tokens=400))
    first = next(stream)
    demo.abort_request(first.request_id)
    *_, last = stream
    [answer] = last.outputs
    assert answer.finish_reason == "abort"
    assert len(answer.logprobs) == len(answer.token_ids) > 0


def test_kinds_of_outputs_of_an_async_engine(demo):
    expected = asked(demo, method="none")

    async def outputs(engine, kind):
        return [out async for out in engine.generate(PROMPT, ASKED, output_kind=kind)]

    with AsyncEngine(demo_engine(num_threads=1)) as engine:
        found = {kind: asyncio.run(outputs(engine, kind)) for kind in RequestOutputKind}
    for kind in (RequestOutputKind.CUMULATIVE, RequestOutputKind.FINAL_ONLY):
        assert told(found[kind][-1]) == expected
    deltas = found[RequestOutputKind.DELTA]
    assert [p for out in deltas for p in out.outputs[0].logprobs] == expected[1]
    assert [t for out in deltas for t in out.outputs[0].token_ids] == expected[0]
    assert [out.prompt_logprobs for out in deltas] == [expected[3]] + [None] * (len(deltas) - 1)
    assert deltas[-1].outputs[0].cumulative_logprob == expected[2]


def test_without_a_tokenizer_tokens_have_no_text(tmp_path):
    target = names.target_folder("demo")
    with Engine(EngineConfig(model=target, skip_tokenizer_init=True, num_threads=1)) as engine:
        _, positions, *_ = asked(engine, [1, 2, 3])
    assert {f.decoded_token for p in positions for f in p.values()} == {None}
