"""llama-cpp-python on the CPU: plain greedy decoding, and its draft-model path.

Plain decoding and forwards call llama_decode through the package's C interface, without the Python
of Llama.generate, which a small model would mostly be waiting for. The speculative modes are
Llama.generate with `draft_model`: its own prompt lookup, or a second Llama that guesses.
"""

import ctypes

import llama_cpp
import numpy as np
from gguf_file import write_gguf
from llama_cpp.llama_speculative import LlamaDraftModel, LlamaPromptLookupDecoding
from serve import Clock, gap_of, serve, timed

# Guessed at a time. Prompt lookup: what its documentation says for a CPU.
LOOKUP, DRAFTED = 2, 4
KV = {"float32": llama_cpp.GGML_TYPE_F32}  # elsewhere its default, float16
ROWS = 512  # of a batch


class Rows:
    """A Llama's context, driven by rows: tokens at positions, logits back."""

    def __init__(self, llama):
        self.llama, self.context = llama, llama.ctx
        self.vocab = llama.n_vocab()
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.batch = llama_cpp.llama_batch_init(ROWS, 0, 1)
        self.held = []  # tokens whose keys and values are there

    def cut(self, length):
        """Forget what is at `length` and behind."""
        llama_cpp.llama_memory_seq_rm(self.memory, 0, length, -1)
        del self.held[length:]

    def feed(self, tokens, all_logits=False):
        """Logits [vocab] of the last token; of a batch with `all_logits` each row's are made."""
        for at in range(0, len(tokens), ROWS):
            self._decode(tokens[at : at + ROWS], all_logits)
        pointer = llama_cpp.llama_get_logits_ith(self.context, -1)
        floats = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(floats, (self.vocab,))

    def _decode(self, tokens, all_logits):
        batch, head = self.batch, len(self.held)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = head + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = all_logits or i == len(tokens) - 1
        code = llama_cpp.llama_decode(self.context, batch)
        if code:
            raise RuntimeError(f"llama_decode: expected 0, got {code}")
        self.held += tokens


class SecondModel(LlamaDraftModel):
    """Guesses with a Llama of its own, which keeps what it has read."""

    def __init__(self, llama):
        self.rows = Rows(llama)

    def __call__(self, input_ids, /, **kwargs):
        ids = input_ids.tolist()
        pairs = enumerate(zip(self.rows.held, ids[:-1], strict=False))
        least = min(len(self.rows.held), len(ids) - 1)
        same = next((i for i, (a, b) in pairs if a != b), least)
        self.rows.cut(same)
        found = []
        rest = ids[same:]
        for _ in range(DRAFTED):
            found.append(int(self.rows.feed(rest).argmax()))
            rest = found[-1:]
        return np.array(found, np.intc)


class Peer:
    """The ops that serve.py lists."""

    def open(self, folder, draft, dtype, mode, threads, build):
        """Load the models."""

        def model(source, **more):
            return llama_cpp.Llama(
                write_gguf(source, build, dtype),
                n_ctx=0,  # as the model says
                n_batch=ROWS,
                n_ubatch=ROWS,
                n_threads=threads,
                n_threads_batch=threads,
                type_k=KV.get(dtype),
                type_v=KV.get(dtype),
                verbose=False,
                **more,
            )

        self.speculative = None
        if mode == "prompt_lookup":
            self.speculative = LlamaPromptLookupDecoding(num_pred_tokens=LOOKUP)
        elif mode == "draft_model":
            self.speculative = SecondModel(model(draft))
        self.llama = model(folder, draft_model=self.speculative)
        self.rows = Rows(self.llama)
        build_flags = llama_cpp.llama_print_system_info().decode()
        return {"version": f"{llama_cpp.__version__}: {build_flags}"}

    def generate(self, ids, max_tokens):
        """Decode greedily; the answer of `Clock`."""
        clock = Clock()
        if self.speculative is None:
            self._plain(ids, max_tokens, clock)
        else:
            self.llama.reset()
            llama_cpp.llama_memory_clear(self.rows.memory, True)
            for token in self.llama.generate(ids, temp=0.0, repeat_penalty=1.0):
                clock.add([int(token)])
                if len(clock.ids) == max_tokens:
                    break
        return clock.answer(max_tokens)

    def _plain(self, ids, max_tokens, clock):
        self.rows.cut(0)
        rest = ids
        for _ in range(max_tokens):
            rest = [int(self.rows.feed(rest).argmax())]
            clock.add(rest)

    def gap(self, ids, token):
        """How far the best logit after `ids` is above that of `token`."""
        self.rows.cut(0)
        return gap_of(self.rows.feed(ids), token)

    def forward(self, rows, context, times):
        """Microseconds of each of `times` forwards over `rows` rows after `context` tokens."""
        if self.speculative is not None:
            return {"us": None, "why": "a forward is the plain line's"}
        self.rows.cut(0)
        ids = list(range(1, context + rows + 1))
        self.rows.feed(ids[:context])
        found = []
        for _ in range(times):
            found.append(timed(lambda: self.rows.feed(ids[context:], all_logits=True)))
            self.rows.cut(context)
        return {"us": found}


if __name__ == "__main__":
    serve(Peer())
