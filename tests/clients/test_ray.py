"""Contract under test: two replicas on a local Ray cluster stream through one endpoint. If a
replica is killed under load, clients that retry still get the same answers as from an engine
alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from sbrt import Engine, SamplingParams

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients" / "ray" / "bin" / "python"
TOKENS = 64

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(
        not PYTHON.exists(), reason="ray: expected .venv-clients/ray (make clients), found none"
    ),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory, free_port):
    """The address of an endpoint with two replicas."""
    port = free_port()
    script = [PYTHON, Path(__file__).with_name("ray_cluster.py"), str(port)]
    options = ["min_replicas=2", "max_replicas=2", "served_model_name=demo", "max_model_len=512"]
    with subprocess.Popen(
        [*script, *options],
        cwd=tmp_path_factory.mktemp("ray"),
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        lines = iter(child.stdout.readline, "")
        assert any(line == "ready\n" for line in lines)
        yield f"http://127.0.0.1:{port}"
        child.stdin.close()
        child.stdout.read()
        assert child.wait(120) == 0


@pytest.fixture(scope="module")
def wanted():
    """wanted(prompt): return the answer of an engine in this process."""
    with Engine.from_pretrained("demo", num_threads=1, max_model_len=512) as engine:
        params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
        yield lambda prompt: engine.generate(prompt, params)[0].outputs[0].text


def replicas():
    """Return the process ids of the replicas."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::ServeReplica:default:sbrt"):
                found.append(int(path.parent.name))
        except OSError:  # the process has just ended
            continue
    return sorted(found)


def stream(client, prompt):
    """Return the streamed text and the number of its parts. Raises httpx2.HTTPError if the stream
    fails or stops early."""
    body = {"prompt": prompt, "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}
    parts, is_done = [], False
    with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                parts.append(json.loads(line[6:])["choices"][0]["text"])
            is_done |= line == "data: [DONE]"
    if not is_done:
        raise httpx2.RemoteProtocolError("the stream has no end")
    return "".join(parts), len(parts)


def served_by(url, count=40):
    """Return how many replicas answer `count` requests."""
    with httpx2.Client(base_url=url, timeout=60) as client:
        texts = [client.get("/metrics").text for _ in range(count)]
    lines = [line for text in texts for line in text.splitlines()]
    return len({line for line in lines if line.startswith("vllm:generation_tokens_created")})


def test_an_endpoint_streams_from_two_replicas(url, wanted):
    assert len(replicas()) == 2
    prompts = [f"def f{i}(" for i in range(8)]
    with httpx2.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda prompt: stream(client, prompt), prompts))
        assert client.get("/v1/models").json()["data"][0]["id"] == "demo"
        refused = client.post("/v1/completions", json={"prompt": "x", "temperature": -1})
    assert [text for text, _ in answers] == [wanted(prompt) for prompt in prompts]
    assert all(parts > 1 for _, parts in answers)
    assert served_by(url) == 2
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "temperature"


def test_a_replica_killed_under_load_loses_no_answer_of_who_retries(url, wanted):
    prompts = [f"class C{i}:" for i in range(24)]
    begun, failures = threading.Semaphore(0), []
    victim, other = replicas()

    def answer(prompt):
        with httpx2.Client(base_url=url, timeout=120) as client:
            begun.release()
            for _ in range(50):
                try:
                    return stream(client, prompt)[0]
                except httpx2.HTTPError as error:
                    failures.append(error)
        raise AssertionError("fifty tries were not enough")

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(answer, prompt) for prompt in prompts]
        for _ in range(10):
            begun.acquire()
        os.kill(victim, signal.SIGKILL)
        texts = [found.result() for found in answers]
    assert texts == [wanted(prompt) for prompt in prompts]
    assert failures  # the streams of the killed replica were cut
    assert victim not in replicas()
    assert other in replicas()
