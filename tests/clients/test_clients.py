"""Contract under test: every client runs unchanged against `sbrt serve`. The client's report has
the same figures as the server's counters."""

from __future__ import annotations

import json

import pytest

from bench.clients import __main__ as bench
from bench.clients.programs import PROGRAMS, python_of

pytestmark = pytest.mark.clients
SPECULATIVE = {"openai", "vllm", "aiperf"}  # these clients report drafted and accepted tokens


@pytest.mark.parametrize("client", PROGRAMS)
def test_a_client_reports_what_the_server_counts(client, capsys):
    if not python_of(client).exists():
        pytest.skip(f"{client}: expected .venv-clients/{client} (make clients), found none")
    assert bench.main(["--clients", client, "--requests", "4", "--json", "-"]) == 0
    [line] = json.loads(capsys.readouterr().out)
    said = line["client_says"]
    assert said["requests"] >= 4
    assert line["server_says"]["accepted"] > 0
    if client in SPECULATIVE:
        assert 0 < said["accepted"] < said["drafted"]
    if client != "lm_eval":
        assert said["completion"] == 4 * 32
