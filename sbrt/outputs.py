"""The outputs of a request. Output classes have the fields of vLLM's outputs, and some of our own,
such as `delta`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ._core import Stats


@dataclass(frozen=True, slots=True)
class Logprob:
    """The log probability of a token at a position, and its rank among all tokens at that position.

    rank: 1 for the most likely; equally likely tokens rank by id, lowest first. decoded_token: the
    token's text as it appears after other tokens, with U+FFFD for bytes that are no whole
    character. decoded_token is None without a tokenizer.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(frozen=True)
class CompletionOutput:
    """One answer, complete or still growing.

    finish_reason: "stop", "length", "abort", "error", or None while the answer is unfinished.
    stop_reason: the stop string or the stop token's id; None for an end-of-sequence token; the
    error's message for "error". token_ids include the token that completed a stop string; the text
    ends before that string. spec_decode_metrics are filled in when the request has finished.
    logprobs, if SamplingParams.logprobs is set: one dict per token of token_ids, from token id to
    Logprob. The token itself comes first, then the most likely tokens. cumulative_logprob: the sum
    of the log-probs of token_ids.
    An output is a snapshot: text, token_ids and logprobs never change. These three fields are made
    when they are first read. So an output that is not read has the same cost at any length.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    # A plain default would be a class attribute, and __getattr__ would never be called.
    logprobs: list[dict[int, Logprob]] | None = field(default_factory=lambda: None)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    spec_decode_metrics: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        pieces: list[str],
        token_ids: list[int],
        logprobs: list[dict[int, Logprob]] | None,
        **fields: Any,
    ) -> CompletionOutput:
        """Make an output from three lists to which the caller only appends. The output stores their
        present lengths, and ignores later items.

        The output's text is the join of the present `pieces`.
        """
        made = cls(text="", token_ids=[], **fields)
        state = vars(made)
        for name, grows in (("text", pieces), ("token_ids", token_ids), ("logprobs", logprobs)):
            if grows is not None:
                del state[name]
                state[f"_{name}"] = grows, len(grows)
        return made

    def __getattr__(self, name: str) -> Any:
        """Make the field `name` from its list when the field is first read."""
        state = vars(self)
        if f"_{name}" in state:
            grows, count = state[f"_{name}"]
            found = grows[:count]
            return state.setdefault(name, "".join(found) if name == "text" else found)
        raise AttributeError(f"{type(self).__name__}: expected a field of it, got {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        """Return only the fields, for pickle and copy."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class RequestMetrics:
    """Seconds that a request waited in the queue, spent in the prefills of both lanes, and spent
    decoding.

    decode_seconds includes the time that the reader of a stream spends between rounds.
    """

    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def total_seconds(self) -> float:
        """The sum of queue_seconds, prefill_seconds and decode_seconds."""
        return self.queue_seconds + self.prefill_seconds + self.decode_seconds


@dataclass(frozen=True)
class RequestOutput:
    """The output of a request so far. The delta fields hold only what is new since the request's
    last output.

    All outputs of a request share one prompt_token_ids list. The engine never reads it.
    num_cached_tokens: number of prompt tokens that were not fed, because a seat had their KV from
    another request; None before the first token. prompt_logprobs, if SamplingParams.prompt_logprobs
    is set: one entry per token of prompt_token_ids, in the form of CompletionOutput.logprobs; the
    first entry is None. prompt_logprobs is set from the answer's first token on.
    history: an `sbrt.trace.history.History` in the last output of a request with keeps_history.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics | None = None
    delta: str = ""
    num_cached_tokens: int | None = None
    delta_token_ids: list[int] = field(default_factory=list)
    delta_logprobs: list[dict[int, Logprob]] | None = None
    prompt_logprobs: Sequence[dict[int, Logprob] | None] | None = None
    history: Any = None


def ratio(part: float, whole: float) -> float:
    """Return part / whole; 0.0 if `whole` is 0."""
    return part / whole if whole else 0.0


def spec_decode_metrics(stats: Stats, times: LaneTimes, tokens: int, gamma: int) -> dict[str, Any]:
    """Return the metrics of a finished request: vLLM's keys, then ours. Times are in seconds.

    tokens: number of tokens that the request returned. mean_acceptance_length counts the target's
    own token (the bonus). num_draft_tokens is the depth of the verified chains, summed over rounds.
    acceptance_histogram counts rounds by accepted tokens, from 0 to `gamma`.
    """
    return {
        "mean_acceptance_length": ratio(stats.accepted + stats.rounds, stats.rounds),
        "draft_acceptance_rate": ratio(stats.accepted, stats.draft_tokens),
        "acceptance_histogram": list(stats.histogram)[: gamma + 1],
        "num_spec_steps": stats.rounds,
        "num_accepted_draft_tokens": stats.accepted,
        "num_draft_tokens": stats.draft_tokens,
        "num_rollback_tokens": stats.rollback_tokens,
        "rollback_rate": ratio(stats.rollback_tokens, tokens),
        "num_branches": stats.branches,
        "num_branch_rounds": stats.branch_rounds,
        "num_branch_hits": stats.branch_hits,
        "num_discarded_branch_tokens": stats.discarded_branch_tokens,
        "num_draft_limit_rounds": stats.draft_limit_rounds,
        "num_empty_residuals": stats.empty_residuals,
        "draft_time_s": times.draft,
        "verify_time_s": times.verify,
        "overlap_time_s": times.overlap,
    }


def auto_metrics(arms: Sequence[str], tuned: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Return the metrics of `auto`: the methods that it chose, and the reason.

    rounds: number of rounds of each method. expected_tokens_per_second: the latest prediction for
    each method. It is 0.0 for a method that would not be worth its cost even if every drafted token
    were accepted. why: one sentence.
    """
    rates = {name: rate for name, (_, rate) in zip(arms, tuned, strict=True)}
    rounds = {name: n for name, (n, _) in zip(arms, tuned, strict=True) if n}
    if not rounds:
        return {"rounds": {}, "expected_tokens_per_second": rates, "why": "nothing ran"}
    most = max(rounds, key=lambda name: rounds[name])
    others = {name: rate for name, rate in rates.items() if name != most}
    second = max(others, key=lambda name: others[name], default=most)
    why = (
        f"{most} ran {rounds[most]} of {sum(rounds.values())} rounds: at last it promised "
        f"{rates[most]:.0f} tokens/s, the next best, {second}, {rates[second]:.0f}, "
        f"plain decoding {rates[arms[0]]:.0f}"
    )
    return {"rounds": rounds, "expected_tokens_per_second": rates, "why": why}


@dataclass(frozen=True)
class LaneTimes:
    """Seconds in which the draft lane worked (draft), the target lane worked (verify), and both
    worked (overlap).

    The seconds are computed from the trace. For a very long request they cover only the events that
    the trace still holds.
    """

    draft: float = 0.0
    verify: float = 0.0
    overlap: float = 0.0
