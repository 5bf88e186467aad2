"""Outputs of a request: vLLM's names, `delta` and a few figures of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ._core import Stats


@dataclass(frozen=True, slots=True)
class Logprob:
    """The log-prob of a token at a position, and its rank among all tokens there.

    rank: 1 for the most likely; equally likely tokens rank by id, lowest first. decoded_token: its
    text inside other text, with U+FFFD for bytes that are no whole character; None without a
    tokenizer.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(frozen=True)
class CompletionOutput:
    """One answer so far.

    finish_reason: "stop", "length", "abort", "error", or None while the answer is unfinished.
    stop_reason: the stop string or stop token id, None for an end-of-sequence token; the sentence
    of an "error". token_ids include the token that completed a stop; the text ends before it.
    spec_decode_metrics are filled in when the request has finished. logprobs, with
    SamplingParams.logprobs: one dict per token of token_ids, log-probs by token id. The token
    itself comes first, then the most likely ones. cumulative_logprob: the sum over token_ids.
    An output is a snapshot: text, token_ids and logprobs never change. They are made when first
    read, so an unread output costs the same at any length.
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
        """An output over lists that only grow. Its text is the join of the present `pieces`."""
        made = cls(text="", token_ids=[], **fields)
        state = vars(made)
        for name, grows in (("text", pieces), ("token_ids", token_ids), ("logprobs", logprobs)):
            if grows is not None:
                del state[name]
                state[f"_{name}"] = grows, len(grows)
        return made

    def __getattr__(self, name: str) -> Any:
        """A field that is made from a list, when it is first read."""
        state = vars(self)
        if f"_{name}" in state:
            grows, count = state[f"_{name}"]
            found = grows[:count]
            return state.setdefault(name, "".join(found) if name == "text" else found)
        raise AttributeError(f"{type(self).__name__}: expected a field of it, got {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: the fields alone."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class RequestMetrics:
    """Seconds that a request waited in the queue, spent in both prefills, and spent decoding.

    decode_seconds includes the time that the reader of a stream took between its rounds.
    """

    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def total_seconds(self) -> float:
        """The sum of all three."""
        return self.queue_seconds + self.prefill_seconds + self.decode_seconds


@dataclass(frozen=True)
class RequestOutput:
    """A request so far, cumulative. The delta fields hold what is new since its last output.

    All outputs of a request share one prompt_token_ids list. The engine never reads it.
    num_cached_tokens: tokens of the prompt that were not fed, because a seat had them from another
    request; None before the first token. prompt_logprobs, with SamplingParams.prompt_logprobs and
    from the first token on: one entry per token of prompt_token_ids, in the form of
    CompletionOutput.logprobs; None for the first position.
    history: an `sbrt.trace.history.History` in the last output of a request that asked for it.
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
    """part / whole, 0.0 when there is no whole."""
    return part / whole if whole else 0.0


def spec_decode_metrics(stats: Stats, times: LaneTimes, tokens: int, gamma: int) -> dict[str, Any]:
    """vLLM's keys, then ours. `tokens`: the number that the request returned; times in seconds.

    mean_acceptance_length counts the target's own token (the bonus). num_draft_tokens is the depth
    of the verified chains, summed over rounds. acceptance_histogram counts rounds by accepted
    tokens, from 0 to `gamma`.
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
    """The methods that `auto` chose, and the reason.

    rounds: number of rounds by method. expected_tokens_per_second: the latest prediction by method.
    It is 0.0 for a method that could not pay even if every drafted token were accepted.
    why: one sentence.
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
    """Seconds that the draft lane worked, that the target lane worked, and that both worked at
    once.

    They are read from the trace: for a very long request they cover only what it still holds.
    """

    draft: float = 0.0
    verify: float = 0.0
    overlap: float = 0.0
