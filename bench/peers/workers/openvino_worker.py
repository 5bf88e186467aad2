"""Runs openvino-genai on the CPU. It decodes greedily: plainly, with a draft (`draft_model`), or
with its prompt lookup (`prompt_lookup`).

optimum-intel converts a Hugging Face folder once. Weights keep the requested dtype, but bfloat16
weights are stored as float16. Arithmetic has the precision of the requested dtype. openvino-genai
itself reads GGUF files, and keeps their quantised weights.
"""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import openvino
import openvino_genai
from serve import Clock, gap_of, serve, timed

PRECISION = {"float32": "f32", "bfloat16": "bf16"}
WEIGHTS = {"float32": "fp32", "bfloat16": "fp16"}
DRAFTED, NGRAM = 4, 3  # number of draft tokens per round; longest n-gram to look up
MODEL = "openvino_model.xml"


class Arrivals(openvino_genai.StreamerBase):
    """A streamer that records when tokens arrive."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()

    def write(self, token):
        """Record the arrival of one or several tokens."""
        self.clock.add(list(token) if isinstance(token, (list, tuple)) else [int(token)])
        return openvino_genai.StreamingStatus.RUNNING

    def end(self):
        """Do nothing, because `write` keeps no token back."""


class Peer:
    """A peer engine with the ops that serve.py lists."""

    def open(self, folder, draft, dtype, mode, threads, build):
        """Load the models."""
        self.properties = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": PRECISION.get(dtype, "f32"),
            "KV_CACHE_PRECISION": "f32" if dtype == "float32" else "f16",
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.mode, self.request = mode, None
        more = {}
        if dtype == "gguf":
            source = linked(folder, build)
            self.model = source.parent
            more = {"enable_save_ov_model": True}
        else:
            source = self.model = converted(folder, build, dtype)
        if mode == "draft_model":
            small = str(converted(draft, build, dtype))
            more = {"draft_model": openvino_genai.draft_model(small, "CPU", **self.properties)}
        elif mode == "prompt_lookup":
            more["prompt_lookup"] = True
        self.pipe = openvino_genai.LLMPipeline(str(source), "CPU", **self.properties, **more)
        return {"version": f"{openvino_genai.__version__}, openvino {openvino.__version__}"}

    def generate(self, ids, max_tokens):
        """Decode greedily. Returns what Clock.answer returns."""
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = max_tokens, True, False
        config.apply_chat_template = False
        if self.mode in ("draft_model", "prompt_lookup"):
            config.num_assistant_tokens = DRAFTED
        if self.mode == "prompt_lookup":
            config.max_ngram_size = NGRAM
        arrivals = Arrivals()
        prompt = openvino.Tensor(np.array([ids], np.int64))
        result = self.pipe.generate(prompt, config, arrivals)
        answer = arrivals.clock.answer(max_tokens)
        return answer | {"ids": list(result.tokens[0])[:max_tokens]}

    def gap(self, ids, token):
        """Return how far the logit of `token` after `ids` is below the best logit; see `gap_of`."""
        self._infer_from(ids, 0)
        return gap_of(self.request.get_tensor("logits").data[0, -1], token)

    def forward(self, rows, context, times):
        """Return the us of each of `times` forwards of `rows` rows after `context` tokens."""
        if self.mode != "plain":
            return {"us": None, "why": "a forward is the plain line's"}
        ids = list(range(1, context + rows + 1))
        found = []
        for _ in range(times):
            self._infer_from(ids[:context], 0)
            found.append(timed(lambda: self._infer(ids[context:], context)))
        return {"us": found}

    def _infer_from(self, ids, head):
        if self.request is None:
            core = openvino.Core()
            compiled = core.compile_model(
                core.read_model(self.model / MODEL), "CPU", self.properties
            )
            self.request = compiled.create_infer_request()
        self.request.reset_state()
        self._infer(ids, head)

    def _infer(self, ids, head):
        end = head + len(ids)
        inputs = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(head, end)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self.request.infer(inputs)


def linked(file, build):
    """Return a link to a GGUF file, in a folder where OpenVINO may write its converted files."""
    file = Path(file).resolve()
    out = Path(build) / f"{file.stem}-openvino" / file.name
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists():
        out.symlink_to(file)
    return out


def converted(folder, build, dtype):
    """Return the folder of OpenVINO's model and tokenizer. The folder is made if it does not
    exist."""
    out = Path(build) / f"{Path(folder).name}-openvino-{WEIGHTS[dtype]}"
    if not out.is_dir():
        from optimum.exporters.openvino import main_export
        from optimum.intel import OVConfig

        part = out.with_suffix(".part")
        main_export(
            folder,
            part,
            task="text-generation-with-past",
            library_name="transformers",
            convert_tokenizer=True,  # OpenVINO's draft_model compares vocabularies
            ov_config=OVConfig(dtype=WEIGHTS[dtype]),
        )
        part.replace(out)
    return out


if __name__ == "__main__":
    serve(Peer())
