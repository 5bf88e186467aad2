"""Keeps the state of answers in flight. Makes the fields `usage`, `metrics` and `timings` of
response bodies from this state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..outputs import RequestOutput, ratio
from ..pump import Stream


@dataclass(eq=False)
class Choice:
    """One answer in flight: its tokens so far, with times in seconds of the monotonic clock.

    cached: number of the prompt's tokens whose KV was reused.
    """

    index: int
    prompt_text: str | None
    prompt_ids: list[int]
    stream: Stream
    begun_at: float
    first_at: float = 0.0
    last_at: float = 0.0
    tokens: int = 0
    cached: int = 0
    text: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    final: RequestOutput | None = None

    def take(self, output: RequestOutput) -> list[float]:
        """Add the new tokens of an output. If the output joins several outputs of the engine, the
        times between them are known; returns these times in seconds."""
        [answer] = output.outputs
        gaps = []
        for now in self.stream.times if answer.token_ids else ():
            if self.first_at:
                gaps.append(now - self.last_at)
            self.first_at = self.first_at or now
            self.last_at = now
        self.tokens += len(answer.token_ids)
        self.cached = output.num_cached_tokens or 0
        self.text.append(answer.text)
        self.ids += answer.token_ids
        if output.finished:
            self.final = output
        return gaps

    @property
    def finish_reason(self) -> str | None:
        """The engine's finish_reason; None while the answer is unfinished."""
        return None if self.final is None else self.final.outputs[0].finish_reason

    @property
    def stop_reason(self) -> int | str | None:
        """The stop string or stop token id that ended the answer; None if there is none."""
        return None if self.final is None else self.final.outputs[0].stop_reason

    @property
    def spec(self) -> dict[str, Any]:
        """The answer's spec_decode_metrics; empty for an answer that never ran."""
        found = None if self.final is None else self.final.outputs[0].spec_decode_metrics
        return found or {}

    @property
    def wait_seconds(self) -> float:
        """Seconds from the request to the first token; 0 without a token."""
        return self.first_at - self.begun_at if self.first_at else 0.0


def usage(choices: Sequence[Choice], n: int) -> dict[str, Any]:
    """Return the field `usage`, the numbers of tokens so far. A prompt with `n` answers is counted
    once."""
    prompt = sum(len(choice.prompt_ids) for choice in choices[::n])
    completion = sum(choice.tokens for choice in choices)
    accepted = _sum(choices, "num_accepted_draft_tokens")
    drafted = _sum(choices, "num_draft_tokens")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(choice.cached for choice in choices[::n])},
        "completion_tokens_details": {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": drafted - accepted,
        },
    }


def metrics(choices: Sequence[Choice]) -> dict[str, Any]:
    """Return the field `metrics` of a request: times in ms, tokens per second, and the figures of
    speculative decoding. The values describe all answers of the request together."""
    generation = sum(choice.last_at - choice.first_at for choice in choices)
    gaps = sum(max(0, choice.tokens - 1) for choice in choices)
    tokens = sum(choice.tokens for choice in choices)
    return {
        "time_to_first_token_ms": 1000 * max(choice.wait_seconds for choice in choices),
        "generation_time_ms": 1000 * generation,
        "queue_time_ms": 1000 * max(_seconds(choice, "queue_seconds") for choice in choices),
        "mean_itl_ms": 1000 * ratio(generation, gaps),
        "tokens_per_second": ratio(tokens, _decode_seconds(choices)),
        "speculative_decoding": _speculative(choices),
    }


def timings(choices: Sequence[Choice], n: int) -> dict[str, Any]:
    """Return a request's figures in the form of llama.cpp's server."""
    prompts, tokens = (sum(len(c.prompt_ids) for c in choices[::n]), sum(c.tokens for c in choices))
    prefill = sum(_seconds(choice, "prefill_seconds") for choice in choices)
    decode = _decode_seconds(choices)
    return {
        "prompt_n": prompts,
        "prompt_ms": 1000 * prefill,
        "prompt_per_token_ms": 1000 * ratio(prefill, prompts),
        "prompt_per_second": ratio(prompts, prefill),
        "predicted_n": tokens,
        "predicted_ms": 1000 * decode,
        "predicted_per_token_ms": 1000 * ratio(decode, tokens),
        "predicted_per_second": ratio(tokens, decode),
        "draft_n": _sum(choices, "num_draft_tokens"),
        "draft_n_accepted": _sum(choices, "num_accepted_draft_tokens"),
    }


def _speculative(choices: Sequence[Choice]) -> dict[str, Any]:
    """Return the figures of speculative decoding, under vLLM's keys.

    Entry n of the histogram is the number of rounds with n accepted tokens.
    """
    longest = max((len(c.spec.get("acceptance_histogram", ())) for c in choices), default=0)
    histogram = [0] * max(1, longest)
    for choice in choices:
        for n, count in enumerate(choice.spec.get("acceptance_histogram", ())):
            histogram[n] += int(count)
    steps, accepted = _sum(choices, "num_spec_steps"), _sum(choices, "num_accepted_draft_tokens")
    drafted = _sum(choices, "num_draft_tokens")
    return {
        "mean_acceptance_length": ratio(accepted + steps, steps),
        "draft_acceptance_rate": ratio(accepted, drafted),
        "acceptance_histogram": histogram,
        "num_spec_steps": steps,
        "num_accepted_draft_tokens": accepted,
        "num_draft_tokens": drafted,
        "num_spec_tokens": len(histogram) - 1,
    }


def _sum(choices: Sequence[Choice], key: str) -> int:
    return sum(int(choice.spec.get(key, 0)) for choice in choices)


def _seconds(choice: Choice, name: str) -> float:
    found = None if choice.final is None else choice.final.metrics
    return 0.0 if found is None else float(getattr(found, name))


def _decode_seconds(choices: Sequence[Choice]) -> float:
    return sum(_seconds(choice, "decode_seconds") for choice in choices)
