"""Counts of requests and tokens, as a client reports them or as the server's /metrics do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from urllib.request import urlopen

COUNTERS = {
    "requests": "vllm:request_success_total",
    "prompt": "vllm:prompt_tokens_total",
    "completion": "vllm:generation_tokens_total",
    "rounds": "vllm:spec_decode_num_drafts_total",
    "drafted": "vllm:spec_decode_num_draft_tokens_total",
    "accepted": "vllm:spec_decode_num_accepted_tokens_total",
}


@dataclass(frozen=True)
class Figures:
    """Numbers of finished requests, prompt tokens, answer tokens, rounds, drafted and accepted
    tokens.

    A number is None if the client does not count it.
    """

    requests: int | None = None
    prompt: int | None = None
    completion: int | None = None
    rounds: int | None = None
    drafted: int | None = None
    accepted: int | None = None

    def differences(self, other: Figures) -> Mapping[str, tuple[int, int]]:
        """Return {name: (own value, other value)} for the figures that differ. Figures that are
        None here or in `other` are skipped."""
        mine, theirs = asdict(self), asdict(other)
        both = {k: (mine[k], theirs[k]) for k in mine if None not in (mine[k], theirs[k])}
        return {k: pair for k, pair in both.items() if pair[0] != pair[1]}


def scrape(base: str) -> Figures:
    """Return the counts of the server at `base` since the server started."""
    with urlopen(f"{base}/metrics", timeout=60) as response:
        return parse(response.read().decode())


def parse(text: str) -> Figures:
    """Return the counters in the text of /metrics. Each counter is summed over its labels."""
    found = dict.fromkeys(COUNTERS, 0)
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        for key, counter in COUNTERS.items():
            if name == counter:
                found[key] += int(float(rest.rsplit(" ", 1)[1]))
    return Figures(**found)


def between(before: Figures, after: Figures) -> Figures:
    """Return how much the server's counts grew between two calls of `scrape`."""
    first, last = asdict(before), asdict(after)
    return Figures(**{name: last[name] - first[name] for name in last})
