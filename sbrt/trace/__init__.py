"""Records the times of the lanes' work: spans, rounds, Chrome traces, profiles."""

from __future__ import annotations

from .spans import DRAFT, TARGET, Round, Span, lane_times

__all__ = ["DRAFT", "TARGET", "Round", "Span", "lane_times"]
