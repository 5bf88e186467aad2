"""Random rows of logits with a request, as input for the sampling pass of the CPU and for the
kernels."""

import ctypes

import numpy as np
import torch

from sbrt import _probe
from sbrt.triton_kernels import state
from sbrt.triton_kernels.ban import SPLITS, WORDS, flat_words
from sbrt.triton_kernels.choose_plan import ChoosePlan, choose_work
from sbrt.triton_kernels.shaping import ENDS, NO_TOKEN, Shaping, path_of

POSITIONS = (0, 1, 77, 2**31 - 1, 2**32 - 1, 2**32, 2**40 + 3)
LONGEST_TRUNK = 1000  # largest number of tokens of a trunk if there are bad words
MANY_WORDS = SPLITS * WORDS + 1  # number of bad words for which a program needs two iterations
ROOM = 2048  # room for a list of bad words, in int32 words


class Case:
    """Rows of logits of one request. Lists of the request (masks, bias, counts, bad words) exist
    twice: as lists for the CPU, and as dense tensors for the kernels.

    kind: "greedy", "plain" (sampled) or "filtered". shaped: the request changes its logits. heads:
    positions, of which one is drawn as the position of the root. words: smallest number of bad
    words.
    """

    def __init__(
        self, seed, rows, vocab, *, kind, shaped=False, device="cpu", heads=POSITIONS, words=0
    ):
        self.least_words = words
        self.rng = rng = np.random.default_rng(seed)
        self.rows, self.vocab, self.device = rows, vocab, device
        self.filtered, self.ids = kind == "filtered", ()
        self.kept = []  # arrays that `block` points to
        self.block = state.Sequence()
        self.block.sharpness = float(rng.choice([1.0, 1.0, 2.5, 0.6]))
        self._sample(kind)
        self.logits = np.stack([self._row() for _ in range(rows)])
        self.block.head = int(rng.choice(heads))
        # A draft may lack the last tokens of the trunk. Then its rows begin before the root.
        self.lag = min(int(rng.choice([0, 0, 3])), self.block.head)
        self.table = state.Batch(head=(self.block.head - self.lag,), n=rows)
        self._attach()
        self.shaping = self._shape() if shaped else None

    def _sample(self, kind):
        rng, s = self.rng, self.block.sampling
        s.temperature = 0.0 if kind == "greedy" else float(rng.choice([0.1, 0.3, 0.8, 1.0, 2.0]))
        s.seed, s.completion = int(rng.integers(2**64, dtype=np.uint64)), int(rng.integers(2**32))
        s.top_p = 1.0
        if kind == "filtered":
            s.top_k = int(rng.choice([0, 1, 5, 40]))
            s.top_p = float(rng.choice([1.0, 0.0, 0.3, 0.9, 0.999]))
            s.min_p = float(rng.choice([0.0, 0.001, 0.05, 1.0]))

    def _row(self):
        """Return a row of logits: normally distributed, or with few different values so that there
        are ties.

        Some logits are -inf. A few rows have no token at all, or a NaN or +inf.
        """
        rng = self.rng
        if rng.random() < 0.5:
            x = rng.normal(scale=rng.choice([0.5, 3.0, 10.0]), size=self.vocab)
        else:
            x = rng.integers(-6, 7, size=self.vocab) / 2
        x[rng.random(self.vocab) < 0.1] = -np.inf
        x[rng.integers(self.vocab)] = 1.0
        if rng.random() < 0.05:
            x[:] = -np.inf
        if rng.random() < 0.05:
            x[rng.integers(self.vocab)] = rng.choice([np.nan, np.inf])
        return x.astype(np.float32)

    def _attach(self):
        """Make the rows a random tree of nodes after the root. Some rows also attend to a tail of
        branch 1."""
        rng, c = self.rng, self.block
        c.chain.size = int(rng.integers(min(59, self.rows) + 1))  # later nodes: branch 0
        for which in (c.chain.token, c.branches[0].token, c.branches[1].token):
            which[:] = [int(t) for t in rng.integers(self.vocab, size=64)]
        masks = [1]
        for i in range(1, self.rows):
            masks.append(masks[rng.integers(len(masks))] | 1 << min(i, 59))
        for row, mask in zip(self.table.row, masks, strict=False):
            row.chain, row.branch = state.mask_of(mask << self.lag | (1 << self.lag) - 1), -1
            tail = (1 << int(rng.integers(0, 5))) - 1 if rng.random() < 0.3 else 0
            row.tail, row.branch = state.mask_of(tail), 1
            row.position = c.head + mask.bit_count() - 1 + tail.bit_count()

    def _shape(self):
        rng, vocab, s = self.rng, self.vocab, self.block.shaping
        counts = rng.integers(0, 4, size=vocab).astype(np.int32) * (rng.random(vocab) < 0.3)
        seen = ((counts > 0) | (rng.random(vocab) < 0.2)).astype(np.uint8)
        bias = np.where(rng.random(vocab) < 0.2, rng.normal(size=vocab) * 3, 0).astype(np.float32)
        ends = rng.choice(vocab, size=min(3, vocab), replace=False).astype(np.int32)
        allowed = np.flatnonzero(rng.random(vocab) < 0.7).astype(np.int32)
        holes = rng.choice(vocab, size=min(2, vocab), replace=False).astype(np.int32)
        s.active, s.penalises = 1, int(rng.random() < 0.8)
        s.restricts = int(rng.random() < 0.5)
        s.repetition, s.presence, s.frequency = 1.3, 0.25, float(rng.choice([0.0, 0.5]))
        s.ends_from = self.block.head + int(rng.integers(0, 4))
        self._list(s.ends, ends)
        self._list(s.holes, holes)
        if s.restricts:
            self._list(s.allowed, allowed)
        pairs = np.zeros(np.count_nonzero(bias), dtype=[("token", np.int32), ("bias", np.float32)])
        pairs["token"], pairs["bias"] = np.flatnonzero(bias), bias[bias != 0]
        self._list(s.bias, pairs)
        tokens = np.flatnonzero(seen).astype(np.int32)
        output = counts.astype(np.int32)
        self.kept += [tokens, output, seen]
        self.block.counts.n = len(tokens)
        for name, array in (("token", tokens), ("output", output), ("seen", seen)):
            setattr(self.block.counts, name, array.ctypes.data)
        mask = np.zeros(vocab, np.uint8)
        if s.restricts:
            mask[np.setdiff1d(np.arange(vocab), allowed)] |= NO_TOKEN
        mask[holes] |= NO_TOKEN
        mask[ends] |= ENDS
        dense = (torch.from_numpy(x)[None].to(self.device) for x in (mask, bias, output, seen))
        return Shaping(*dense, *self._bad_words())

    def _bad_words(self):
        """Make bad words. Most of them begin with the last tokens of a row, some of which are in
        the trunk. The others begin with random tokens."""
        if self.block.head >= LONGEST_TRUNK:
            return None, None
        rng, c = self.rng, self.block
        trunk = rng.integers(self.vocab, size=c.head + 1).astype(np.int32)
        self.kept.append(trunk)
        c.trunk = trunk.ctypes.data
        words = [[int(rng.integers(self.vocab))]]
        for i, row in enumerate(list(self.table.row)[: self.rows]):
            tokens = [*trunk.tolist(), *path_of(c, self.table.head[0], row)]
            beginning = tokens[len(tokens) - int(rng.integers(min(len(tokens), 6) + 1)) :]
            if beginning and rng.random() < 0.3:
                beginning[rng.integers(len(beginning))] = int(rng.integers(self.vocab))
            # In most cases ban the row's best token, so that the second best token wins.
            x = self.logits[i]
            first = int(np.nanargmax(np.where(np.isnan(x), -np.inf, x)))
            words.append(
                [*beginning, first if rng.random() < 0.7 else int(rng.integers(self.vocab))]
            )
        while len(words) < max(self.rows + 2, self.least_words):
            words.insert(0, rng.integers(self.vocab, size=9).tolist())
        self.words = words
        flat = np.array([x for word in words for x in (len(word), *word)], np.int32)
        self._list(c.shaping.words, flat)
        # Entries beyond the head must not be read, so they have misleading values.
        beyond = np.append(trunk, np.full(7, words[0][0], np.int32))
        found = flat_words(words, ROOM), torch.from_numpy(beyond)
        return tuple(tensor[None].to(self.device) for tensor in found)

    def _list(self, to, array):
        self.kept.append(array)
        to.data, to.n = array.ctypes.data, len(array)

    def by_cpu(self, dists=False):
        block, table = bytes(self.block), bytes(self.table)
        made = _probe.choose_probe(block, table, self.logits, dists, self.ids)
        kind = state.Dist if dists else state.Choice
        return list((kind * self.rows).from_buffer_copy(made))

    def by(self, op, dists=False, chunk=256):
        shaped = self.shaping is not None
        columns, trimmed = self.logits.shape[1], len(self.ids) > 0
        plan = ChoosePlan(self.rows, columns, dists, shaped, self.filtered, chunk, trimmed=trimmed)
        work = choose_work(plan, self.device)
        out = torch.full((self.rows, plan.out_words), 77, dtype=torch.int32, device=self.device)
        wide = torch.full((self.rows, columns + 5), float("nan"), device=self.device)
        logits = wide[:, :columns].copy_(torch.from_numpy(self.logits))
        ids = torch.tensor(self.ids, dtype=torch.int32, device=self.device) if trimmed else None
        words = (state.words(self.block, self.device), state.words(self.table, self.device))
        with np.errstate(over="ignore"):  # the interpreter overflows for keys that no logit has
            op(logits, *words, plan=plan, work=work, out=out, shaping=self.shaping, ids=ids)
        assert not work.counters.any(), "a counter was not set back"
        kind = state.Dist if dists else state.Choice
        array = kind * self.rows
        assert ctypes.sizeof(array) == out.numel() * 4
        return list(array.from_buffer_copy(out.cpu().numpy().tobytes())), work

    def trim(self, share=0.4):
        """Keep only the logits of some tokens, including the last token."""
        known = self.rng.random(self.vocab) < share
        known[-1] = True
        self.ids = np.flatnonzero(known).tolist()
        self.logits = np.ascontiguousarray(self.logits[:, self.ids])
        return self

    def gap(self, work, i):
        """Return the difference between the two highest scores of row i."""
        best = work.score[i].flatten().sort(descending=True).values[:2]
        return float(best[0] - best[1]) if len(best) > 1 else float("inf")
