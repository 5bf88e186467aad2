"""The loop that all workers share: JSON lines on stdin and stdout, standard library only.

A worker runs in its peer's environment, which has no sbrt. Each input line is a request
{"op": ..., arguments}. Each output line is the answer, or {"error": one sentence}:

    open      folder, draft (or null), dtype, mode, threads, build -> version
    generate  ids, max_tokens -> ids, seconds, timed; perhaps picking
    generate_batch  prompts, max_tokens -> ids of each prompt, seconds, timed, total (llama.cpp
                    only)
    gap       ids, token -> gap
    forward   rows, context, times -> us of each forward; or null, with `why`
    logits    ids, path -> rows, vocab; writes float32 [rows, vocab] to path (llama.cpp only)
    tokenize  texts -> ids of each text (llama.cpp only)

`folder` and `draft` are Hugging Face folders, or GGUF files for the dtype gguf. `seconds` is the
time from the first token, after prefill, to the last. `timed` tokens were generated in this time.
The worker's own loop, not the engine, took `picking` of these seconds. `total` is the time with
prefill. `gap` is how far the logit of `token` after `ids` is below the best logit. The gap is
relative to max(1, best logit).
"""

import json
import os
import sys
import time


def serve(peer):
    """Answer requests until stdin ends. Output of the peer itself goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(peer, request.pop("op"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


class Clock:
    """Records when tokens arrive, one or several at a time. The first arrival ends the prefill."""

    def __init__(self):
        self.ids, self.times = [], []
        self.first = 0
        self.engine = None  # seconds of the engine itself after prefill, if the worker knows them

    def add(self, ids):
        """Record that `ids` have arrived now."""
        self.times.append(time.perf_counter())
        self.ids += ids
        self.first = self.first or len(self.ids)

    def answer(self, max_tokens):
        """Return the answer to `generate`. A method may generate too many tokens, so the ids are
        cut to max_tokens."""
        seconds = self.times[-1] - self.times[0] if self.times else 0.0
        timed = len(self.ids) - self.first
        answer = {"ids": self.ids[:max_tokens], "seconds": seconds, "timed": timed}
        return answer if self.engine is None else answer | {"picking": seconds - self.engine}


def timed(run):
    """Return the microseconds that run() takes."""
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1e6


def gap_of(logits, token):
    """Return the answer to the request `gap`. logits: an array [vocab]."""
    best = float(logits.max())
    return {"gap": (best - float(logits[token])) / max(abs(best), 1.0)}
