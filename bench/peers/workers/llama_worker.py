"""llama-cpp-python on the CPU: greedy decoding, plain and speculative.

Modes:

    plain                calls llama_decode through the package's C interface; with a small model
                         Llama.generate would spend most of the time in Python
    prompt_lookup        Llama.generate with the package's own prompt lookup
    draft_model          Llama.generate with a second Llama as the draft
    prompt_lookup_bare   the package's prompt lookup and llama_decode, without Llama.generate
    vocabulary           only the tokenizer; loads no weights

generate_batch decodes several sequences plainly, with one row of each in one llama_batch.
"""

import ctypes
import time

import llama_cpp
import numpy as np
from gguf_file import write_gguf
from llama_cpp.llama_speculative import LlamaDraftModel, LlamaPromptLookupDecoding
from serve import Clock, gap_of, serve, timed

# Number of draft tokens per round, with prompt lookup and with a draft. The documentation of
# llama-cpp-python advises the first number for prompt lookup on a CPU.
LOOKUP, DRAFTED = 2, 4
KV = {"float32": llama_cpp.GGML_TYPE_F32}  # with other dtypes the KV cache is float16, the default
ROWS = 512  # largest number of rows of a llama_batch


class Rows:
    """One sequence in a Llama's context. It takes tokens as rows, and returns their logits."""

    def __init__(self, llama, context=None):
        self.llama, self.context = llama, context or llama.ctx
        self.vocab = llama.n_vocab()
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.batch = llama_cpp.llama_batch_init(ROWS, 0, 1)
        self.held = []  # tokens whose keys and values are in the context
        self.seconds = 0.0  # time in llama_decode so far

    def cut(self, length):
        """Forget the tokens from index `length` on."""
        llama_cpp.llama_memory_seq_rm(self.memory, 0, length, -1)
        del self.held[length:]

    def feed(self, tokens, all_logits=False):
        """Run forwards over `tokens`. Returns the logits of the last token, [vocab].

        With `all_logits` it returns the logits of all rows of the last llama_batch, [rows, vocab].
        """
        for at in range(0, len(tokens), ROWS):
            self.fill(tokens[at : at + ROWS], all_logits)
            self.decode()
        return self.logits(all_logits)

    def fill(self, tokens, all_logits=False):
        """Put tokens into the llama_batch, at the positions that follow the tokens in the
        context."""
        head, last = len(self.held), len(tokens) - 1
        self.put([(0, head + i, token, all_logits or i == last) for i, token in enumerate(tokens)])
        self.held += tokens

    def put(self, rows):
        """Fill the llama_batch. rows: a sequence, a position, a token, and whether the row needs
        logits."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (sequence, position, token, wants) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wants

    def decode(self):
        """Run llama_decode on the llama_batch. llama_get_logits waits until the computation has
        ended."""
        begin = time.perf_counter()
        code = llama_cpp.llama_decode(self.context, self.batch)
        if code:
            raise RuntimeError(f"llama_decode: expected 0, got {code}")
        self.pointer = llama_cpp.llama_get_logits(self.context)
        self.seconds += time.perf_counter() - begin

    def logits(self, all_logits=False):
        """Return logits as `feed` does. The array is valid until the next `decode`."""
        found = self.rows_of_logits(self.batch.n_tokens if all_logits else 1)
        return found if all_logits else found[0]

    def rows_of_logits(self, count):
        """Return the logits of the first `count` rows among those that need logits, [count, vocab].

        The array is valid until the next `decode`.
        """
        floats = ctypes.cast(self.pointer, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(floats, (count, self.vocab))


class Batch(Rows):
    """Several sequences in a separate context, each with room for `length` tokens."""

    def __init__(self, llama, sequences, length):
        params = type(llama.context_params).from_buffer_copy(llama.context_params)
        params.n_seq_max = sequences
        params.n_ctx = sequences * (-(-length // 256) * 256)  # llama.cpp rounds up too
        context = llama_cpp.llama_init_from_model(llama.model, params)
        if not context:
            raise RuntimeError(f"llama_init_from_model: expected a context of {params.n_ctx} cells")
        super().__init__(llama, context)
        self.sequences, self.length = sequences, length

    def holds(self, sequences, length):
        """Return True if there is room for `sequences` sequences of `length` tokens."""
        return self.sequences >= sequences and self.length >= length

    def free(self):
        """Free the memory."""
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)

    def picks(self, rows):
        """Run forwards over `rows`, which have the form that `put` takes.

        Returns the most probable next token for each row that needs logits.
        """
        found = []
        for at in range(0, len(rows), ROWS):
            part = rows[at : at + ROWS]
            self.put(part)
            self.decode()
            if count := sum(wants for *_, wants in part):
                found += self.rows_of_logits(count).argmax(axis=1).tolist()
        return found

    def generate(self, prompts, max_tokens):
        """Prefill all prompts, then decode them with one row of each in every llama_batch.

        Returns the answer to the request generate_batch; see serve.py.
        """
        llama_cpp.llama_memory_clear(self.memory, True)
        begin = time.perf_counter()
        rows = [
            (sequence, i, token, i == len(ids) - 1)
            for sequence, ids in enumerate(prompts)
            for i, token in enumerate(ids)
        ]
        found = [[token] for token in self.picks(rows)]
        prefilled = time.perf_counter()
        for step in range(max_tokens - 1):
            rows = [(s, len(prompts[s]) + step, ids[-1], True) for s, ids in enumerate(found)]
            for ids, token in zip(found, self.picks(rows), strict=True):
                ids.append(token)
        end = time.perf_counter()
        timed = len(prompts) * (max_tokens - 1)
        return {"ids": found, "seconds": end - prefilled, "timed": timed, "total": end - begin}


class Vocabulary:
    """The tokenizer of a GGUF file."""

    def __init__(self, path):
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not model:
            raise RuntimeError(f"llama_model_load_from_file: expected a model in {path}")
        self.vocab = llama_cpp.llama_model_get_vocab(model)

    def ids(self, text):
        """Encode a prompt, given as UTF-8 bytes.

        Special tokens in the text are recognised. The special tokens that the model wants around a
        prompt are added.
        """
        room = len(text) + 8
        found = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self.vocab, text, len(text), found, room, True, True)
        return list(found[:count])


class SecondModel(LlamaDraftModel):
    """Drafts with a separate Llama. Tokens that are still in the answer stay in that Llama's
    context."""

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
    """A peer engine with the ops that serve.py lists."""

    def open(self, folder, draft, dtype, mode, threads, build):
        """Load the models."""

        def model(source, **more):
            return llama_cpp.Llama(
                source if dtype == "gguf" else write_gguf(source, build, dtype),
                n_ctx=0,  # 0: the context length that the model states
                n_batch=ROWS,
                n_ubatch=ROWS,
                n_threads=threads,
                n_threads_batch=threads,
                type_k=KV.get(dtype),
                type_v=KV.get(dtype),
                verbose=False,
                **more,
            )

        self.mode, self.speculative, self.batch = mode, None, None
        if mode == "prompt_lookup":
            self.speculative = LlamaPromptLookupDecoding(num_pred_tokens=LOOKUP)
        elif mode == "draft_model":
            self.speculative = SecondModel(model(draft))
        if mode == "vocabulary":
            self.vocabulary = Vocabulary(folder)
        else:
            self.llama = model(folder, draft_model=self.speculative)
            self.rows = Rows(self.llama)
        build_flags = llama_cpp.llama_print_system_info().decode()
        return {"version": f"{llama_cpp.__version__}: {build_flags}"}

    def generate(self, ids, max_tokens):
        """Decode greedily. Returns what Clock.answer returns."""
        clock = Clock()
        if self.mode == "prompt_lookup_bare":
            self._looked_up(ids, max_tokens, clock)
        elif self.speculative is None:
            self._plain(ids, max_tokens, clock)
        else:
            self.llama.reset()
            llama_cpp.llama_memory_clear(self.rows.memory, True)
            for token in self.llama.generate(ids, temp=0.0, repeat_penalty=1.0):
                clock.add([int(token)])
                if len(clock.ids) == max_tokens:
                    break
        return clock.answer(max_tokens)

    def generate_batch(self, prompts, max_tokens):
        """Decode all prompts together, greedily. Returns what Batch.generate returns."""
        size = len(prompts), max(map(len, prompts)) + max_tokens
        if self.batch is None or not self.batch.holds(*size):
            if self.batch is not None:
                self.batch.free()
            self.batch = Batch(self.llama, *size)
        return self.batch.generate(prompts, max_tokens)

    def _plain(self, ids, max_tokens, clock):
        rest = self._first(ids, clock)
        begin = self.rows.seconds
        for _ in range(max_tokens - 1):
            rest = [int(self.rows.feed(rest).argmax())]
            clock.add(rest)
        clock.engine = self.rows.seconds - begin

    def _looked_up(self, ids, max_tokens, clock):
        """Decode with llama-cpp-python's prompt lookup. One llama_decode verifies the drafts of a
        round."""
        guess, known = LlamaPromptLookupDecoding(num_pred_tokens=LOOKUP), list(ids)
        known += self._first(ids, clock)
        begin = self.rows.seconds
        while len(clock.ids) < max_tokens:
            drafted = guess(np.array(known, np.intc)).tolist()
            picks = self.rows.feed([known[-1], *drafted], all_logits=True).argmax(axis=1).tolist()
            pairs = enumerate(zip(drafted, picks, strict=False))
            n = next((i for i, (a, b) in pairs if a != b), len(drafted))
            self.rows.cut(len(known) + n)
            known += picks[: n + 1]
            clock.add(picks[: n + 1])
        clock.engine = self.rows.seconds - begin

    def _first(self, ids, clock):
        self.rows.cut(0)
        first = [int(self.rows.feed(ids).argmax())]
        clock.add(first)
        return first

    def gap(self, ids, token):
        """Return how far the logit of `token` after `ids` is below the best logit; see `gap_of`."""
        self.rows.cut(0)
        return gap_of(self.rows.feed(ids), token)

    def forward(self, rows, context, times):
        """Return the us of each of `times` forwards of `rows` rows after `context` tokens."""
        if self.mode != "plain":
            return {"us": None, "why": "a forward is the plain line's"}
        self.rows.cut(0)
        ids = list(range(1, context + rows + 1))
        self.rows.feed(ids[:context])
        found = []
        for _ in range(times):
            self.rows.fill(ids[context:], all_logits=True)
            found.append(timed(self.rows.decode))
            self.rows.cut(context)
        return {"us": found}

    def logits(self, ids, path):
        """Write the logits of all `ids`, at most ROWS, to the file `path`. Returns the logits'
        shape."""
        self.rows.cut(0)
        found = self.rows.feed(ids, all_logits=True)
        found.tofile(path)
        return {"rows": len(found), "vocab": found.shape[1]}

    def tokenize(self, texts):
        """Return the ids of each text as a prompt. Special tokens in the text are recognised."""
        return {"ids": [self.vocabulary.ids(text.encode()) for text in texts]}


if __name__ == "__main__":
    serve(Peer())
