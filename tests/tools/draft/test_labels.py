"""Contract under test: labels are the engine's distributions, and are computed only once. A label
file that an interruption damaged is made again."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sbrt import Engine, SamplingParams
from sbrt.config import EngineConfig
from sbrt.serve.pair import load_pair
from sbrt.tools.draft import labels
from sbrt.tools.draft.answers import Job, Writer, jobs_of
from sbrt.tools.draft.chat import Chat
from sbrt.tools.draft.labels import Answer, Reader, label, labelled, read_answers


@pytest.fixture(scope="module")
def writer(target):
    config = EngineConfig(target, num_threads=1, max_num_seqs=4, speculative=None)
    with Engine(config) as engine:
        yield Writer(engine, Chat(target))


@pytest.fixture(scope="module")
def reader(target):
    return Reader(load_pair(EngineConfig(target, num_threads=1)), 256, 1)


@pytest.fixture(scope="module")
def answers(writer):
    jobs = [Job("prompts", i, f"word {i}") for i in range(5)]
    found = list(writer.answered(jobs, 20))
    return [Answer(r["source"], r["index"], r["prompt_ids"], r["ids"]) for r in found]


def test_the_first_label_is_the_greedy_token(answers, reader):
    for answer in answers:
        found = label(reader, answer)
        assert found.ids[:, 0].tolist() == answer.ids
        assert (np.diff(np.nan_to_num(found.logs.astype(np.float32), neginf=-99.0)) <= 0).all()
        assert (np.exp(found.logs.astype(np.float32)).sum(1) <= 1.01).all()
        used = found.ids >= 0
        assert (found.logs[used] >= found.logs[:, :1].repeat(labels.KEPT, 1)[used] - 12.1).all()


def test_a_label_is_the_softmax_of_the_logits(answers, reader):
    answer = answers[0]
    logits = np.concatenate([piece for _, piece in reader.read(answer)]).astype(np.float64)
    logs = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    logs -= logits.max(1, keepdims=True)
    found = label(reader, answer)
    for row, ids, expected in zip(found.logs, found.ids, logs, strict=True):
        wanted = expected[ids[ids >= 0]]
        assert np.abs(row[ids >= 0] - wanted).max() < 0.01


def test_answers_are_those_of_the_engine_alone(writer, answers, target):
    for answer in answers:
        ids = writer.chat.ask(f"word {answer.index}")
        assert writer.engine.encode(ids) == answer.prompt
        params = SamplingParams(temperature=0, max_tokens=20)
        assert list(writer.engine.generate(ids, params)[0].outputs[0].token_ids) == answer.ids


def test_a_stopped_run_goes_on_and_a_torn_line_is_made_again(writer, tmp_path):
    jobs = [Job("prompts", i, f"word {i}") for i in range(6)]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    writer.write(whole, jobs, 12, np.inf, lambda *_: None)
    torn.write_bytes(whole.read_bytes()[:-7])
    assert len(read_answers(torn)) == len(read_answers(whole)) - 1
    writer.write(torn, jobs, 12, np.inf, lambda *_: None)
    assert torn.read_bytes() == whole.read_bytes()


def test_time_ends_the_answers_between_two_rounds(writer, tmp_path, monkeypatch):
    monkeypatch.setattr("sbrt.tools.draft.answers.ROUND", 2)
    jobs = [Job("prompts", i, f"word {i}") for i in range(6)]
    writer.write(tmp_path / "a", jobs, 8, -np.inf, lambda *_: None)
    assert len(read_answers(tmp_path / "a")) == 2
    writer.write(tmp_path / "a", jobs, 8, -np.inf, lambda *_: None, least=3)
    assert len(read_answers(tmp_path / "a")) == 4


def test_invented_prompts_are_what_the_target_says_a_user_says(writer):
    assert writer.chat.opening == "user: "
    found = list(writer.answered([Job("invented", i, None) for i in range(12)], 8))
    for raw in found:
        text = writer.engine.pair.tokenizer.decode(raw["prompt_ids"])
        assert text.startswith("user: ")
        assert text.endswith("\nanswer:")


def test_every_eighth_prompt_is_held_out():
    kept, held = jobs_of([f"p{i}" for i in range(20)], 0)
    assert [job.index for job in held] == [0, 8, 16]
    assert {job.index for job in kept} == set(range(20)) - {0, 8, 16}
    assert {job.temperature for job in kept} == {0.0, 0.7}
    kept, held = jobs_of(None, 16)
    assert (len(kept), len(held)) == (14, 2)
    assert {job.text for job in kept + held} == {None}


def test_labels_are_made_once(answers, reader, tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "BLOCK", 2)
    first = labelled(tmp_path, answers, lambda: reader, lambda *_: None)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(stamps) == 3
    (tmp_path / "00001.npz").write_bytes(b"torn")

    def nobody():
        raise AssertionError("expected labels to be there")

    with pytest.raises(AssertionError, match="to be there"):
        labelled(tmp_path, answers, nobody, lambda *_: None)
    again = labelled(tmp_path, answers, lambda: reader, lambda *_: None)
    changed = {p.name for p, at in stamps.items() if p.stat().st_mtime_ns != at}
    assert changed == {"00001.npz"}
    assert len(first) == len(again) == len(answers)
    for one, other in zip(first, again, strict=True):
        assert (one.ids == other.ids).all()
        assert (one.logs == other.logs).all()


def test_other_answers_of_the_same_lengths_are_labelled_anew(answers, reader, tmp_path):
    labelled(tmp_path, answers[:1], lambda: reader, lambda *_: None)
    [first] = answers[:1]
    other = replace(first, ids=[*first.ids[:-1], first.ids[-1] ^ 1])
    [found] = labelled(tmp_path, [other], lambda: reader, lambda *_: None)
    [wanted] = labelled(tmp_path / "anew", [other], lambda: reader, lambda *_: None)
    assert (found.ids == wanted.ids).all()
    other = replace(first, ids=[first.ids[0] ^ 1, *first.ids[1:]])
    [found] = labelled(tmp_path, [other], lambda: reader, lambda *_: None)
    [wanted] = labelled(tmp_path / "anew", [other], lambda: reader, lambda *_: None)
    assert (found.logs == wanted.logs).all()
    assert (found.logs != label(reader, first).logs).any()


NO_IDS = '{"source": "x", "index": 0, "prompt_ids": %s, "ids": %s}'


@pytest.mark.parametrize(
    "line",
    [
        *("{", "[]", '{"source": "x"}', "1", NO_IDS % ("5", "[2]"), NO_IDS % ("[]", "[2]")),
        *(NO_IDS % ("[1]", '["x"]'), NO_IDS % ("[1]", "[-2]"), NO_IDS % ("[true]", "[2]")),
    ],
)
def test_answers_that_are_none_are_refused(tmp_path, one_sentence, line):
    path = tmp_path / "answers.jsonl"
    good = {"source": "x", "index": 0, "prompt_ids": [1], "ids": [2]}
    path.write_text(f"{json.dumps(good)}\n{line}\n")
    one_sentence(lambda: read_answers(path), path, "line 2")
