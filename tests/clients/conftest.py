"""Fixtures for the tests of clients."""

from __future__ import annotations

import random
import socket

import pytest


@pytest.fixture(scope="session")
def free_port():
    """free_port(): return a free port below 32768, because Dynamo stores ports in 16 bits."""

    def find():
        while True:
            port = random.randrange(20000, 32768)
            with socket.socket() as found:
                try:
                    found.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port

    return find
