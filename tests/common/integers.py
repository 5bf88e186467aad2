"""Random matrices in every quantised format, in plain numpy, and their products with rows of
inputs."""

import numpy as np

from sbrt import _core, _probe

F32 = np.float32
GROUP = 32  # number of successive values of a row that share a scale
FORMATS = {
    "Q8_0": ("int8", 32, "float16"),
    "int8": ("int8", 64, "float32"),
    "int8 by 128": ("int8", 128, "float32"),
    "Q5_1": ("int8", 32, "float16", "float16"),
    "Q5_K": ("int8", 32, "float32", "float32"),
    "Q6_K": ("int8", 16, "float32"),
    "Q2_K": ("int8", 16, "float32", "float32"),
    "Q4_0": ("int4", 32, "float16", "none", 8),
    "Q4_1": ("int4", 32, "float16", "float16"),
    "Q4_K": ("int4", 32, "float32", "float32"),
    "int4 by 64": ("int4", 64, "float16", "float32"),
    "int4 by 128": ("int4", 128, "float32", "float32"),
}


def fma(a, b, c):
    """Return a * b + c in float32 with one rounding, as a fused multiply-add does. The float64
    result is first rounded to odd, so that the rounding to float32 is correct."""
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)  # exact in float64
    c = np.asarray(c, np.float64)
    total = product + c
    part = total - product
    lost = (product - (total - part)) + (c - part)
    even = (np.ascontiguousarray(total).view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
    return np.where((lost != 0) & even, odd, total).astype(F32)


def by_group(a, group):
    """Reshape [..., k] to [..., number of groups, group]. The last group is padded with zeros."""
    n = a.shape[-1]
    wide = np.zeros((*a.shape[:-1], -(-n // group) * group), a.dtype)
    wide[..., :n] = a
    return wide.reshape(*a.shape[:-1], -1, group)


def rounded(x):
    """Quantise finite rows to 8 bits; return levels [rows, groups, 32] and scales [rows,
    groups]."""
    groups = by_group(x, GROUP)
    scales = np.abs(groups).max(axis=2) / F32(127)
    safe = np.where(scales > 0, scales, F32(1))
    return np.rint(groups / safe[:, :, None]).astype(np.int64), scales


class Matrix:
    """A matrix [outputs, inputs] of random integer levels in one quantised format. `weights` and
    `product` compute with the values that the levels stand for."""

    def __init__(self, name, outputs, inputs, seed=0):
        rng = np.random.default_rng([seed, outputs, inputs, *name.encode()])
        element, self.group, *self.rest = FORMATS[name]
        self.format = _core.Format(*FORMATS[name])
        low, high = (-128, 128) if element == "int8" else (0, 16)
        self.zero = self.rest[2] if len(self.rest) > 2 else 0
        self.levels = rng.integers(low, high, (outputs, inputs))
        groups = -(-inputs // self.group)
        scales = rng.standard_normal((outputs, groups), F32) / F32(64)
        minimums = rng.standard_normal((outputs, groups), F32)
        self.scales = self.kept(scales, self.rest[0])
        self.has_minimums = len(self.rest) > 1 and self.rest[1] != "none"
        self.minimums = self.kept(minimums, self.rest[1]) if self.has_minimums else None

    @staticmethod
    def kept(values, kind):
        return values.astype(np.float16).astype(F32) if kind == "float16" else values

    def pack(self, probe, first=0):
        levels = self.levels.astype(np.int8).view(np.uint8)
        probe.pack_levels(self.format, levels, self.scales, self.minimums, first)
        return probe

    def packed(self):
        return self.pack(_probe.MatmulProbe([(self.format, len(self.levels))], self.inputs))

    @property
    def inputs(self):
        return self.levels.shape[1]

    def weights(self):
        """Return the weights as float32 [outputs, inputs]; each operation rounds to float32."""
        wide = (self.levels - self.zero).astype(F32)
        out = by_group(wide, self.group) * self.scales[:, :, None]
        if self.has_minimums:
            out += self.minimums[:, :, None]
        return out.reshape(len(out), -1)[:, : self.inputs]

    def product(self, x):
        """Return the product of this matrix and the rows x, as float32 [rows, outputs].

        The dot products are accumulated group by group. A group adds scale * (scale of the row) *
        (integer dot product). Then it adds minimum * (sum of the row's values in the group)."""
        step = min(self.group, GROUP)
        q, x_scales = rounded(x)
        q = by_group(q.reshape(len(x), -1), step)
        levels = by_group(self.levels - self.zero, step)
        total = np.zeros((len(x), len(levels)), F32)
        for g in range(levels.shape[1]):
            own, of_row = g * step // self.group, g * step // GROUP
            scale = self.scales[:, own] * x_scales[:, of_row, None]
            sums = q[:, g] @ levels[:, g].T
            total = fma(sums, scale, total)
            if self.has_minimums:
                moment = x_scales[:, of_row] * q[:, g].sum(axis=1).astype(F32)
                total = fma(self.minimums[:, own], moment[:, None], total)
        return total


def rows(n, inputs, seed=0):
    return np.random.default_rng([seed, n, inputs]).standard_normal((n, inputs), F32)


def groups_of(raw, n):
    """Return the bytes `raw` of `n` rows as an array of the struct RowGroups, [n, groups]."""
    kind = np.dtype([("q", "i1", 32), ("scale", "f4"), ("moment", "f4"), ("less_128", "i4"),
                     ("less_8", "i4"), ("half_moment", "f4", 2),
                     ("half_less_128", "i4", 2)])  # fmt: skip
    return np.frombuffer(raw, kind).reshape(n, -1)
