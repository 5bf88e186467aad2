"""Contract under test: `sbrt serve` listens immediately and says what it serves. After a signal it
ends when running requests have ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import httpx2
import pytest

from sbrt import SamplingParams
from sbrt.server.protocol import Limits
from sbrt.server.service import Service, Settings
from sbrt.tools import cli
from sbrt.tools import serve as serve_cli

ENDLESS = {
    "prompt": "x = ",
    "max_tokens": 900,
    "ignore_eos": True,
    "stream": True,
    "temperature": 0,
}


@pytest.fixture(scope="module")
def process():
    """Run `sbrt serve` with the demo pair. Yields the process and its first line, which has the
    address."""
    command = [sys.executable, "-m", "sbrt", "serve", "--port", "0", "--threads", "1"]
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"SBRT_API_KEY": "a secret"}
    )
    line = child.stderr.readline()
    yield child, line
    child.kill()
    child.wait()
    child.stderr.close()


def test_serve_alone_serves_the_demo_pair_until_it_is_told_to_end(process):
    child, line = process
    found = re.search(
        r"serving demo: bfloat16 weights on cpu, method auto, 8 seats, 1024 tokens at most, "
        r"at (http://127\.0\.0\.1:\d+)$",
        line.rstrip(),
    )
    assert found, line
    headers = {"authorization": "Bearer a secret", "x-request-id": "r1"}
    with httpx2.Client(base_url=found.group(1), headers=headers, timeout=60) as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "demo"
        assert client.get("/v1/models", headers={"authorization": "Bearer no"}).status_code == 401
        with client.stream("POST", "/v1/completions", json=ENDLESS) as response:
            lines = response.iter_lines()
            text = next(lines)
            child.send_signal(signal.SIGTERM)
            text = [text, *lines]
    events = [json.loads(one[6:]) for one in text if one.startswith("data: {")]
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert [one for one in text if one][-1] == "data: [DONE]"
    assert child.wait(60) == 0
    log = child.stderr.read()
    assert "POST /v1/completions 200" in log
    assert "r1" in log
    assert "a secret" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "99999"], "--port: expected an integer from 0 to 65535, got 99999"),
        (["--max-waiting-requests", "-1"], "--max-waiting-requests: expected an integer"),
        (["--shutdown-timeout", "nan"], "--shutdown-timeout: expected a finite number"),
        (["--send-timeout", "0"], "--send-timeout: expected a finite number from 0.001"),
        (["--api-key", ""], "--api-key: expected a non-empty string"),
        (
            ["--host", "no.such.host.invalid", "--method", "pearl"],
            "--host no.such.host.invalid --port 0: expected",
        ),
        (["--target", "/nothing"], "expected a folder with config.json"),
        (["--chat-template", "/nothing", "--draft", "none"], "/nothing: expected a file"),
        (["--method", "magic"], "method: expected one of"),
        (["--prompt", "x"], "unrecognized arguments: --prompt x"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_what_cannot_be_served_is_one_sentence(flags, message, capsys):
    assert cli.main(["serve", "--port", "0", "--threads", "1", *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "given",
    [["--method", "auto:acceptance=rejection"], ["--method", "pearl", "--gamma", "14"],
     ["--draft", "none"], ["--method", "lookup", "--gamma", "6"],
     ["--method", "pearl", "--max-model-len", "64"]],
    ids=lambda given: given[-1],
)  # fmt: skip
def test_whatever_the_flags_are_requests_may_name_other_methods(given):
    args = cli._parser().parse_args(["serve", "--threads", "1", *given])
    with serve_cli._engine(args) as engine:
        params = SamplingParams(temperature=0, max_tokens=4)
        want = engine.generate("def area(", params)[0].outputs[0].text
        for method in ("none", "lookup:gamma=2"):
            assert engine.generate("def area(", params, method=method)[0].outputs[0].text == want
        if engine.pair.draft is not None:
            assert engine.generate("x", params, method="hedge")[0].outputs[0].token_ids


def test_requests_that_take_too_long_after_the_signal_end_with_an_error(tools):
    service = Service(Settings(names=("demo",), limits=Limits(n=64)))
    with tools.listening(service, tools.demo_engine(), seconds=0.0) as found:
        with httpx2.Client(base_url=found.url, timeout=60) as client:
            body = {**ENDLESS, "n": 64}
            with client.stream("POST", "/v1/completions", json=body) as response:
                lines = response.iter_lines()
                next(lines)
                found.server.should_exit = True
                rest = [line for line in lines if line]
        found.thread.join(60)
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"{found.url}/health")
    assert rest[-1] == "data: [DONE]"
    error = json.loads(rest[-2].removeprefix("data: "))["error"]
    assert error["type"] == "service_unavailable_error"
    assert "shutting down" in error["message"]
    assert not service._engine.is_running


def test_a_server_that_ends_accepts_nothing_new(local):
    call = local()
    call.service.is_draining = True
    for path in ("/health", "/v1/models"):
        assert "shutting down" in call("GET", path).json()["error"]["message"]
