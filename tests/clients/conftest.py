"""What the tests of clients share."""

from __future__ import annotations

import random
import socket

import pytest


@pytest.fixture(scope="session")
def free_port():
    """free_port(): a port that nobody listens on, below 32768: Dynamo reads one into 16 bits."""

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
