"""`python -m bench.endure`: `sbrt serve` under clients that hang up, dawdle or send garbage.

    python -m bench.endure --clients 64 --minutes 10 --json -

Clients send streaming requests without a pause. They hang up in the middle of 20 % of the requests,
read 5 % of the answers slowly, and send garbage in 1 % of the requests. Then the same number of
well-behaved clients send requests, for a quarter as long. This shows how much the bad requests
delay the good ones. At the end the server gets SIGTERM while streams run. Every finished answer is
compared with the answer to the same request alone, in this process.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from itertools import pairwise
from pathlib import Path
from typing import Any

from sbrt import Engine, InvalidInputError, SamplingParams, check
from sbrt.tools import compare, flags
from sbrt.tools.prompts import BUILT_IN

from .models.served import serving
from .models.traffic import percentile

# Shares of the requests whose client disconnects early, reads slowly, or sends garbage.
HANGS_UP, SLOW, GARBAGE = 0.20, 0.05, 0.01
DAWDLE = 0.05  # seconds that a slow client waits after each line
TOKENS = (8, 64)  # max_tokens of short and of long answers
SEEDS = 8
METHODS = ("none", "lookup", "draft_model")
PAGE = os.sysconf("SC_PAGE_SIZE")
LATE = 60.0  # seconds; a longer wait is a fault
DONE = "data: [DONE]"

Key = tuple[str, int, float, int]  # prompt, max_tokens, temperature, seed


@dataclass
class Seen:
    """The observations of all clients. `lock` guards them."""

    answers: list[tuple[Key, str]] = field(default_factory=list)
    # Latencies of requests of well-behaved clients, in seconds. gaps: between two lines. firsts:
    # from the request to the first line.
    gaps: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    hung_up: int = 0
    refused: int = 0  # number of garbage requests that the server refused
    faults: list[str] = field(default_factory=list)
    unended: int = 0  # number of streams that stopped before the line DONE
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Storm:
    """`clients` concurrent clients, which send requests until time.monotonic() reaches `until`.

    rude: True if clients sometimes hang up, read slowly or send garbage.
    """

    address: tuple[str, int]
    clients: int
    until: float
    rude: bool
    seed: int

    def run(self, seen: Seen) -> None:
        """Run the clients, and return when all have ended. Adds their observations to `seen`."""
        threads = [
            threading.Thread(target=self._client, args=(number, seen))
            for number in range(self.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, number: int, seen: Seen) -> None:
        draw = random.Random(self.seed * 1000 + number)
        while time.monotonic() < self.until:
            kind = draw.random() if self.rude else 1.0
            try:
                if kind < GARBAGE:
                    self._garbage(draw, seen)
                else:
                    self._ask(draw, kind - GARBAGE, seen)
            except (OSError, HTTPException, ValueError, KeyError) as error:
                with seen.lock:
                    seen.faults.append(f"{type(error).__name__}: {error}")
                return

    def _garbage(self, draw: random.Random, seen: Seen) -> None:
        with closing(HTTPConnection(*self.address, timeout=LATE)) as connection:
            connection.request("POST", "/v1/completions", draw.randbytes(60))
            status = connection.getresponse().status
        with seen.lock:
            seen.refused += 1
            if status != 400:
                seen.faults.append(f"garbage: expected status 400, got {status}")

    def _ask(self, draw: random.Random, kind: float, seen: Seen) -> None:
        body = drawn(draw)
        leaves = draw.randrange(1, 8) if kind < HANGS_UP else None
        slow = not leaves and kind < HANGS_UP + SLOW
        text, last, times = [], "", [time.perf_counter()]
        with closing(HTTPConnection(*self.address, timeout=LATE)) as connection:
            for line in lines_of(opened(connection, body)):
                times.append(time.perf_counter())
                last = line
                if leaves is not None and len(times) > leaves:
                    break
                if slow:
                    time.sleep(DAWDLE)
                text.append(text_of(line))
        with seen.lock:
            if last == DONE:
                seen.answers.append((key_of(body), "".join(text)))
            elif leaves is not None and len(times) > leaves:
                seen.hung_up += 1
            else:
                seen.unended += 1
            if leaves is None and not slow and len(times) > 1:
                gaps = [b - a for a, b in pairwise(times)]
                seen.firsts.append(gaps[0])
                seen.gaps += gaps[1:]


def drawn(draw: random.Random) -> dict[str, Any]:
    """Return a random request for a streamed completion: greedy or sampled, by any method."""
    sampled = draw.random() < 0.5
    return {
        "prompt": draw.choice(BUILT_IN), "max_tokens": draw.choice(TOKENS), "stream": True,
        "ignore_eos": True, "speculative": draw.choice(METHODS),
        "temperature": 1.0 if sampled else 0.0, "seed": draw.randrange(SEEDS) if sampled else 0,
    }  # fmt: skip


def key_of(body: dict[str, Any]) -> Key:
    """Return the fields of a request that decide its answer."""
    return body["prompt"], body["max_tokens"], body["temperature"], body["seed"]


def opened(connection: HTTPConnection, body: dict[str, Any]) -> HTTPResponse:
    """Return the response to an accepted request. Raises ValueError if the server refuses the
    request."""
    connection.request("POST", "/v1/completions", json.dumps(body))
    response = connection.getresponse()
    if response.status != 200:
        raise ValueError(f"expected status 200, got {response.status}: {response.read(200)!r}")
    return response


def lines_of(response: HTTPResponse) -> Iterator[str]:
    """Yield the lines of a stream that carry data."""
    for line in response:
        if line.startswith(b"data: "):
            yield line.decode().rstrip()


def text_of(line: str) -> str:
    """Return the text in one line of a stream, or an empty text for the line DONE."""
    if line == DONE:
        return ""
    return "".join(choice["text"] for choice in json.loads(line.removeprefix("data: "))["choices"])


class Memory(threading.Thread):
    """Records the resident memory of a process in bytes, once a second, until `stop` is called."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.sizes: list[int] = []
        self._path, self._over = Path(f"/proc/{pid}/statm"), threading.Event()

    def run(self) -> None:
        """Called by the thread."""
        while not self._over.wait(1.0):
            self.sizes.append(int(self._path.read_text().split()[1]) * PAGE)

    def stop(self) -> None:
        """Stop recording, and wait until the thread has ended."""
        self._over.set()
        self.join()

    def growth(self) -> float:
        """Return the median of the last fifth of the sizes, divided by the median of the second
        fifth.

        The first fifth is left out, because the server warms up. Returns 1.0 if there are fewer
        than 5 sizes.
        """
        n = len(self.sizes) // 5
        if not n:
            return 1.0
        return statistics.median(self.sizes[-n:]) / statistics.median(self.sizes[n : 2 * n])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 after a defect, 2 for bad input."""
    return flags.guarded("bench.endure", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = flags.Parser(prog="python -m bench.endure", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--target", default="demo", metavar="T", help="default: %(default)s")
    add("--clients", type=int, default=64, metavar="N", help="default: %(default)s")
    add("--minutes", type=float, default=10.0, metavar="M", help="default: %(default)s")
    add("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    flags.add_json_flag(parser)
    args = parser.parse_args(argv)
    if not 1 <= args.clients <= 512:
        raise InvalidInputError(f"--clients: expected 1 to 512, got {args.clients}")
    check.number("--minutes", args.minutes, 0.01, 1440)
    found = measured(args)
    if args.json is not None:
        compare.write_json(args.json, [found])
    else:
        print("\n".join(f"{name:28} {value}" for name, value in found.items()))
    return 0 if found["sound"] else 1


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Run the rude clients, then the well-behaved ones, then send SIGTERM. Returns the report.

    At the end every answer is compared with the answer to the same request alone.
    """
    rude, calm, last = Seen(), Seen(), Seen()
    seconds = 60 * args.minutes
    with serving(["--target", args.target, "--shutdown-timeout", str(LATE)]) as (child, *address):
        host, port = address
        memory = Memory(child.pid)
        memory.start()
        for seen, share, is_rude in ((rude, 1.0, True), (calm, 0.25, False)):
            until = time.monotonic() + share * seconds
            Storm((host, port), args.clients, until, is_rude, args.seed).run(seen)
            if seen is rude:
                memory.stop()
                left = unfinished(host, port)
        exit_code = end_of(child, Storm((host, port), args.clients, 0, False, args.seed + 1), last)
    wrong = differing(args.target, [*rude.answers, *calm.answers, *last.answers])
    faults = [*rude.faults, *calm.faults]
    found = {
        "clients": args.clients, "minutes": args.minutes,
        "answers": len(rude.answers), "hung_up": rude.hung_up, "garbage": rude.refused,
        "differ": wrong, "unended": rude.unended + calm.unended + last.unended,
        "unfinished_afterwards": left, "faults": len(faults), "first_fault": "".join(faults[:1]),
        "memory_mib": round(memory.sizes[-1] / 2**20) if memory.sizes else 0,
        "memory_growth": round(memory.growth(), 3),
        **{f"gap_p99_ms{name}": p99(s.gaps) for name, s in (("", rude), ("_calm", calm))},
        **{f"first_p99_ms{name}": p99(s.firsts) for name, s in (("", rude), ("_calm", calm))},
        "streams_at_the_end": len(last.answers) + last.unended, "exit_code": exit_code,
    }  # fmt: skip
    # Memory is reported, not judged: a short run has too few samples.
    bad = ("differ", "unended", "unfinished_afterwards", "faults", "exit_code")
    return found | {"sound": not any(found[name] for name in bad)}


def p99(seconds: Sequence[float]) -> float:
    """Return the 99th percentile of `seconds`, in milliseconds."""
    return round(1e3 * percentile(seconds, 0.99), 1)


def unfinished(host: str, port: int) -> float:
    """Return how many requests the server still has after all clients have left.

    Waits until the server has no request left, but at most LATE seconds.
    """
    until, left = time.monotonic() + LATE, 1.0
    while left and time.monotonic() < until:
        with closing(HTTPConnection(host, port, timeout=LATE)) as connection:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        found = [float(line.split()[-1]) for line in lines if line.startswith(names)]
        left = sum(found) if len(found) == len(names) else math.inf
        time.sleep(0.1)
    return left


def end_of(child: Any, storm: Storm, seen: Seen) -> int:
    """Send SIGTERM while each client of `storm` reads a stream. Returns the server's exit code."""
    begun = threading.Barrier(storm.clients + 1)

    def read(number: int) -> None:
        body = drawn(random.Random(number)) | {"max_tokens": TOKENS[1]}
        text, last = [], ""
        with closing(HTTPConnection(*storm.address, timeout=LATE)) as connection:
            try:
                response = opened(connection, body)
                begun.wait(LATE)  # waits until the server has accepted every client's request
                for last in lines_of(response):
                    text.append(text_of(last))
            except (OSError, HTTPException, ValueError, KeyError, threading.BrokenBarrierError):
                last = ""
        with seen.lock:
            if last == DONE:
                seen.answers.append((key_of(body), "".join(text)))
            else:
                seen.unended += 1

    threads = [threading.Thread(target=read, args=(n,)) for n in range(storm.clients)]
    for thread in threads:
        thread.start()
    begun.wait(LATE)
    child.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    return int(child.wait(LATE))


def differing(target: str, answers: Sequence[tuple[Key, str]]) -> int:
    """Return how many answers differ from those of plain decoding in an engine with one seat."""
    alone: dict[Key, str] = {}
    with Engine.from_pretrained(target=target, speculative=None, max_num_seqs=1) as engine:
        for prompt, most, temperature, seed in dict.fromkeys(key for key, _ in answers):
            params = SamplingParams(
                max_tokens=most, temperature=temperature, seed=seed, ignore_eos=True
            )
            [output] = engine.generate(prompt, params)
            alone[prompt, most, temperature, seed] = output.outputs[0].text
    return sum(text != alone[key] for key, text in answers)


if __name__ == "__main__":
    sys.exit(main())
