"""Contract under test: what H-RAD computes on a device (hrad_op.h) is what the host's vectors compute,
bit for bit, wherever those have an fma; another order of additions is found (hrad_main.cc)."""

import pytest

from sbrt import build_info

# Texts that come to other bits.
MUTANTS = {
    "products that are rounded": ("::fmaf(x[k], __builtin_bit_cast(float, wide), sum)",
                                  "x[k] * __builtin_bit_cast(float, wide) + sum"),
    "from the last k down": ("words[k * kPanel]), sum)",
                             "words[(in - 1 - k) * kPanel]), sum)"),
    "the bias first": ("  float sum = 0;\n  for (int k = 0;",
                       "  float sum = layer.bias[o];\n  for (int k = 0;"),
    "the last of equal scores": ("if (s.score[best] < s.score[cut])",
                                 "if (s.score[best] <= s.score[cut] + 1)"),
}  # fmt: skip
