"""`python -m bench.serve`: the cost of the server, compared with the same engine in process.

    python -m bench.serve --streams 1,8 --rounds 5 --json -

Each round of the bench runs the prompts three times: on an engine in this process, then through
`sbrt serve` in a separate process with whole answers, then with streamed answers. Figures are
medians over the rounds. The server must give the same texts as the engine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from sbrt import Engine, InvalidInputError, SamplingParams
from sbrt.tools import compare, flags
from sbrt.tools.prompts import BUILT_IN

from .models.served import served

WAYS = ("engine", "whole", "stream")


@dataclass(frozen=True)
class Answer:
    """The text of an answer, its number of tokens, and the seconds until its first part arrived.

    Without streaming the first part is the whole text.
    """

    text: str
    tokens: int
    first_seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 after a defect, 2 for bad input."""
    return flags.guarded("bench.serve", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = flags.Parser(prog="python -m bench.serve", description=__doc__.splitlines()[0])
    flags.add_engine_flags(parser)
    flags.add_method_flag(parser)
    flags.add_size_flags(parser)
    flags.add_json_flag(parser)
    add = parser.add_argument
    add("--max-tokens", type=int, default=128, metavar="N", help="default: %(default)s")
    add("--streams", default="1,8", metavar="A,B", help="clients at once (default: %(default)s)")
    add("--rounds", type=int, default=5, metavar="N", help="default: %(default)s")
    args = parser.parse_args(argv)
    counts = [_count(text) for text in args.streams.split(",")]
    lines = _measured(args, counts)
    if args.json is not None:
        compare.write_json(args.json, lines)
    else:
        print("\n".join(_shown(line) for line in lines))
    return 0 if all(line["same_text"] for line in lines) else 1


def _count(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= 1024):
        raise InvalidInputError(f"--streams: expected numbers from 1 to 1024, got {text!r}")
    return int(text)


def _measured(args: argparse.Namespace, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Measure; returns one line for each number of concurrent clients in `counts`."""
    [method] = flags.read_methods(args, [args.method or flags.default_method(args)])
    config, pair = flags.load(args, [method])
    params = SamplingParams(temperature=0, max_tokens=args.max_tokens, ignore_eos=True)
    with Engine(config, pair=pair) as engine, _server(args) as (host, port):
        ways: dict[str, Callable[[str], Answer]] = {
            "engine": lambda prompt: _in_process(engine, prompt, params),
            "whole": lambda prompt: _over_http(host, port, _body(prompt, args, False)),
            "stream": lambda prompt: _over_http(host, port, _body(prompt, args, True)),
        }
        return [_line(ways, count, args.rounds) for count in counts]


def _line(ways: dict[str, Callable[[str], Answer]], count: int, rounds: int) -> dict[str, Any]:
    prompts = [BUILT_IN[i % len(BUILT_IN)] for i in range(count)]
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    firsts: dict[str, list[float]] = {way: [] for way in WAYS}
    is_same = True
    with ThreadPoolExecutor(count) as pool:
        for turn in range(rounds + 1):
            texts = []
            for way in WAYS:
                begin = time.perf_counter()
                answers = list(pool.map(ways[way], prompts))
                seconds = time.perf_counter() - begin
                texts.append([answer.text for answer in answers])
                if turn:  # the first round only warms up
                    rates[way].append(sum(answer.tokens for answer in answers) / seconds)
                    firsts[way].append(statistics.median(a.first_seconds for a in answers))
            is_same = is_same and all(text == texts[0] for text in texts)
    found: dict[str, Any] = {"streams": count, "rounds": rounds, "same_text": is_same}
    for way in WAYS:
        found[f"{way}_tokens_per_second"] = statistics.median(rates[way])
        found[f"{way}_first_ms"] = 1000 * statistics.median(firsts[way])
    for way in WAYS[1:]:
        ratios = [a / b for a, b in zip(rates[way], rates["engine"], strict=True)]
        found[f"{way}_to_engine"] = statistics.median(ratios)
    return found


def _in_process(engine: Engine, prompt: str, params: SamplingParams) -> Answer:
    begin, first, text = time.perf_counter(), 0.0, []
    for output in engine.stream(prompt, params):
        first = first or time.perf_counter() - begin
        text.append(output.delta)
    return Answer("".join(text), len(output.outputs[0].token_ids), first)


def _body(prompt: str, args: argparse.Namespace, is_stream: bool) -> dict[str, Any]:
    body = {"prompt": prompt, "temperature": 0, "max_tokens": args.max_tokens, "ignore_eos": True}
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if is_stream else {})


def _over_http(host: str, port: int, body: dict[str, Any]) -> Answer:
    begin, first, text = time.perf_counter(), 0.0, []
    connection = HTTPConnection(host, port, timeout=600)
    connection.request("POST", "/v1/completions", json.dumps(body))
    response = connection.getresponse()
    if not body.get("stream"):
        answer = json.loads(response.read())
        seconds = time.perf_counter() - begin
        return Answer(answer["choices"][0]["text"], answer["usage"]["completion_tokens"], seconds)
    for line in response:
        if line.startswith(b"data: {"):
            first = first or time.perf_counter() - begin
            chunk = json.loads(line.removeprefix(b"data: "))
            text += [choice["text"] for choice in chunk["choices"]]
    connection.close()
    return Answer("".join(text), chunk["usage"]["completion_tokens"], first)


@contextmanager
def _server(args: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Run `sbrt serve` with the flags of this bench; yields the server's host and port."""
    given = {
        "--target": args.target, "--draft": args.draft, "--threads": args.threads,
        "--draft-threads": args.draft_threads, "--device": args.device, "--method": args.method,
        "--gamma": args.gamma, "--branches": args.branches, "--dtype": _unless_auto(args.dtype),
        "--activation-dtype": _unless_auto(args.activation_dtype),
    }  # fmt: skip
    words = [str(w) for name, value in given.items() if value is not None for w in (name, value)]
    with served(words) as address:
        yield address


def _unless_auto(value: str) -> str | None:
    return None if value == "auto" else value


def _shown(line: dict[str, Any]) -> str:
    parts = []
    for way in WAYS:
        rate, first = line[f"{way}_tokens_per_second"], line[f"{way}_first_ms"]
        parts.append(f"{way} {rate:.0f} tokens/s, first after {first:.1f} ms")
    ratios = ", ".join(f"{way} {line[f'{way}_to_engine']:.3f} x engine" for way in WAYS[1:])
    same = "same text" if line["same_text"] else "OTHER TEXT"
    return f"{line['streams']} streams: {'; '.join(parts)}; {ratios}; {same}"


if __name__ == "__main__":
    sys.exit(main())
