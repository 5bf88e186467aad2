"""Contract under test: a worker with NVIDIA Dynamo's frontend gives the same answers as the engine,
and refuses unsupported requests. The worker frees the seat of a client that disconnects, and ends
on SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sbrt import Engine, SamplingParams

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients" / "dynamo" / "bin" / "python"
PROMPT = "def area("
SAY = [{"role": "user", "content": "def f(x):"}]

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(
        not PYTHON.exists(),
        reason="dynamo: expected .venv-clients/dynamo (make clients), found none",
    ),
]


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError("it did not come")


@pytest.fixture(scope="module")
def system(tmp_path_factory, free_port):
    """A worker and a frontend, which find each other through a folder."""
    folder = tmp_path_factory.mktemp("dynamo")
    (folder / "chat.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    port, own = free_port(), free_port()
    quiet = os.environ | {"DYN_FILE_KV": str(folder / "store"), "DYN_LOG": "error"}
    found = ["--discovery-backend", "file"]
    flags = ["--num-threads", "1", "--max-model-len", "512", "--method", "draft_model"]
    flags += ["--custom-jinja-template", folder / "chat.jinja"]
    worker = subprocess.Popen(
        [PYTHON, "-m", "sbrt.server.dynamo", *found, *flags],
        cwd=folder,
        env=quiet | {"DYN_SYSTEM_PORT": str(own), "HOME": str(folder)},
    )
    frontend = subprocess.Popen(
        [PYTHON, "-m", "dynamo.frontend", *found, "--http-port", str(port)],
        cwd=folder,
        env=quiet | {"HOME": str(folder)},
    )
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        try:
            until(lambda: client.get("/v1/models").json()["data"])
            yield SimpleNamespace(
                client=client, metrics=f"http://127.0.0.1:{own}/metrics", worker=worker
            )
        finally:
            for process in (frontend, worker):
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def plain():
    with Engine.from_pretrained("demo", num_threads=1, max_model_len=512) as engine:
        yield lambda prompt, **params: engine.generate(prompt, SamplingParams(**params))[0].outputs[
            0
        ]


def complete(system, **fields):
    body = {"model": "demo", "prompt": PROMPT, "max_tokens": 32, **fields}
    return system.client.post("/v1/completions", json=body)


@pytest.mark.parametrize("params", [{"temperature": 0}, {"temperature": 0.9, "seed": 5}])
def test_an_answer_is_the_engine_s(system, plain, params):
    answer = complete(system, **params).json()
    want = plain(PROMPT, max_tokens=32, **params)
    assert answer["choices"][0]["text"] == want.text
    assert answer["choices"][0]["finish_reason"] == "length"
    used = answer["usage"]
    assert used["completion_tokens"] == 32
    assert used["completion_tokens_details"]["accepted_prediction_tokens"] > 0


def test_a_stream_has_the_same_text_in_parts(system, plain):
    lines = complete(system, temperature=0, stream=True).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    parts = [choice["text"] for chunk in chunks for choice in chunk["choices"]]
    assert len(parts) > 3
    assert "".join(parts) == plain(PROMPT, temperature=0, max_tokens=32).text
    assert (
        lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]" or "[DONE]" in lines[-2]
    )


def test_stop_strings_and_a_conversation(system, plain):
    text = plain(PROMPT, temperature=0, max_tokens=32).text
    stop = text[9:12]
    answer = complete(system, temperature=0, stop=[stop]).json()["choices"][0]
    assert (answer["text"], answer["finish_reason"]) == (text[: text.index(stop)], "stop")
    body = {"model": "demo", "messages": SAY, "max_tokens": 16, "temperature": 0}
    answer = system.client.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert answer["message"]["content"] == plain("def f(x):\n", temperature=0, max_tokens=16).text


@pytest.mark.parametrize("fields", [{"logprobs": 2}, {"n": 2}])
def test_what_is_not_built_is_refused(system, fields):
    response = complete(system, **fields)
    assert response.status_code == 400
    assert next(iter(fields)) in response.json()["message"]


def aborted(system):
    families = text_string_to_metric_families(httpx2.get(system.metrics).text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "vllm:request_success_total"
        and sample.labels["finished_reason"] == "abort"
    )


def test_who_leaves_frees_the_seat(system, plain):
    before = aborted(system)
    body = {"model": "demo", "prompt": PROMPT, "max_tokens": 490, "stream": True, "temperature": 1}
    with system.client.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
    until(lambda: aborted(system) > before)
    answer = complete(system, temperature=0).json()["choices"][0]["text"]
    assert answer == plain(PROMPT, temperature=0, max_tokens=32).text


def test_a_signal_ends_the_worker(system):
    system.worker.send_signal(signal.SIGTERM)
    assert system.worker.wait(60) == 0
