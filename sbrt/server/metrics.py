"""Keeps Prometheus metrics, under vLLM's names and a few of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .answers import Choice

LABELS = ("model_name", "engine")
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LONG = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
COUNTERS = {
    "vllm:spec_decode_num_drafts": "Rounds of the target",
    "vllm:spec_decode_num_draft_tokens": "Draft tokens verified",
    "vllm:spec_decode_num_accepted_tokens": "Draft tokens accepted",
    "vllm:prompt_tokens": "Prompt tokens of finished requests",
    "vllm:generation_tokens": "Tokens generated",
    "vllm:prefix_cache_queries": "Prompt tokens looked up in the prefix cache",
    "vllm:prefix_cache_hits": "Prompt tokens whose KV was reused",
    "sbrt:spec_rollback_tokens": "Draft tokens rolled back",
    "sbrt:spec_branch_rounds": "Rounds with a prepared branch",
    "sbrt:spec_branch_hits": "Rounds whose outcome a branch had prepared",
}
HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": ("From a request's arrival to its first token", LONG),
    "vllm:inter_token_latency_seconds": ("Between two outputs of a request", SHORT),
    "vllm:request_time_per_output_token_seconds": ("Mean time per token of a request", SHORT),
    "vllm:e2e_request_latency_seconds": ("From arrival to the last token", LONG),
    "vllm:request_queue_time_seconds": ("In the queue", LONG),
}
# {key of spec_decode_metrics: name of its counter}. Some keys have no counter.
SPEC = {
    "num_spec_steps": "vllm:spec_decode_num_drafts",
    "num_draft_tokens": "vllm:spec_decode_num_draft_tokens",
    "num_accepted_draft_tokens": "vllm:spec_decode_num_accepted_tokens",
    "num_rollback_tokens": "sbrt:spec_rollback_tokens",
    "num_branch_rounds": "sbrt:spec_branch_rounds",
    "num_branch_hits": "sbrt:spec_branch_hits",
}


class Metrics:
    """Counts finished answers of one model. Each server has a registry of its own."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._given = {"model_name": model, "engine": "0"}
        self._counters = {
            name: Counter(name, text, LABELS, registry=self.registry).labels(**self._given)
            for name, text in COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(name, text, LABELS, buckets=buckets, registry=self.registry).labels(
                **self._given
            )
            for name, (text, buckets) in HISTOGRAMS.items()
        }
        self._success = Counter(
            "vllm:request_success",
            "Finished requests",
            (*LABELS, "finished_reason"),
            registry=self.registry,
        )
        self._accepted_at = Counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Draft tokens accepted, by their position in the chain",
            (*LABELS, "position"),
            registry=self.registry,
        )
        self._length = self._gauge("sbrt:spec_accept_length", "Tokens per round of the last answer")

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is read at every scrape."""
        self._gauge(name, text).set_function(value)

    def interval(self, seconds: float) -> None:
        """Record the time between two outputs of a request."""
        self._histograms["vllm:inter_token_latency_seconds"].observe(seconds)

    def finished(self, choice: Choice) -> None:
        """Count an answer whose last output has come."""
        assert choice.final is not None
        reason = choice.finish_reason
        self._success.labels(**self._given, finished_reason=reason).inc()
        self._counters["vllm:prompt_tokens"].inc(len(choice.prompt_ids))
        self._counters["vllm:prefix_cache_queries"].inc(len(choice.prompt_ids))
        self._counters["vllm:prefix_cache_hits"].inc(choice.cached)
        self._counters["vllm:generation_tokens"].inc(choice.tokens)
        self._count_speculation(choice.spec)
        self._observe("e2e_request_latency_seconds", choice.last_at - choice.begun_at, choice)
        self._observe("time_to_first_token_seconds", choice.wait_seconds, choice)
        if choice.tokens > 1:
            mean = (choice.last_at - choice.first_at) / (choice.tokens - 1)
            self._observe("request_time_per_output_token_seconds", mean, choice)
        if choice.final.metrics is not None:
            self._observe("request_queue_time_seconds", choice.final.metrics.queue_seconds, choice)

    def aborted(self) -> None:
        """Count an answer whose client went away."""
        self._success.labels(**self._given, finished_reason="abort").inc()

    def text(self) -> bytes:
        """Return the body of /metrics."""
        return bytes(generate_latest(self.registry))

    def _observe(self, name: str, seconds: float, choice: Choice) -> None:
        if choice.tokens:
            self._histograms[f"vllm:{name}"].observe(seconds)

    def _count_speculation(self, spec: dict[str, Any]) -> None:
        for key, name in SPEC.items():
            self._counters[name].inc(spec.get(key, 0))
        rounds = spec.get("acceptance_histogram", ())
        for position in range(len(rounds) - 1):
            accepted = sum(rounds[position + 1 :])
            self._accepted_at.labels(**self._given, position=str(position)).inc(accepted)
        if rounds:
            self._length.set(spec["mean_acceptance_length"])

    def _gauge(self, name: str, text: str) -> Any:
        return Gauge(name, text, LABELS, registry=self.registry).labels(**self._given)
