"""Faults in the code for drafts with a trimmed LM head or their target's embedding. Their format is
that of faults.py."""

from tests.faults.faults import Fault

FAULTS = (
    Fault(
        "the noise of a trimmed head is that of its columns",
        "csrc/ops/choose.cc",
        "const auto id = static_cast<uint32_t>(columns.id(column));",
        "const auto id = static_cast<uint32_t>(column);",
        ("ops/test_columns.py",),
    ),
    Fault(
        "a bound of noise is that of another token",
        "csrc/ops/choose_simd.inc",
        "static_cast<uint32_t>(tokens[j]) >> 2;",
        "(static_cast<uint32_t>(tokens[j]) >> 2) + 1;",
        ("ops/test_columns.py",),
    ),
    Fault(
        "a mask of a trimmed head hits the column that has the token's number",
        "csrc/ops/shaping.cc",
        "if (const int32_t at = columns.find(token); at >= 0) out[at] = kMasked;",
        "if (token < columns.n) out[token] = kMasked;",
        ("decode/test_same_as_reference.py::test_drafts_whose_head_has_some_of_their_tokens",),
    ),
    Fault(
        "a penalty of a trimmed head hits the column that has the token's number",
        "csrc/ops/shaping.cc",
        "if (const int32_t at = columns.find(token); at >= 0)\n"
        "      out[at] = penalised(out[at], c.shaping, count);",
        "if (const int32_t at = token; at < columns.n)\n"
        "      out[at] = penalised(out[at], c.shaping, count);",
        ("decode/test_same_as_reference.py::test_drafts_whose_head_has_some_of_their_tokens",),
    ),
    Fault(
        "under rejection a trimmed head's probabilities are those of other tokens",
        "csrc/round/accept_op.h",
        "const int32_t id = ids ? ids[i] : i;",
        "const int32_t id = ids ? i : i;",
        ("decode/test_same_as_reference.py::test_drafts_whose_head_has_some_of_their_tokens",),
    ),
    Fault(
        "a draft that shares an embedding reads a row of its own",
        "csrc/model/weights.h",
        "return target_ ? target_->embed() : embed_;",
        "return target_ && tied_ ? target_->embed() : embed_;",
        ("model/test_draft.py",),
    ),
    Fault(
        "the ids of a head need not ascend",
        "sbrt/model/draft.py",
        "np.flatnonzero(np.diff(ids) <= 0)",
        "np.flatnonzero(np.diff(ids) < 0)",
        ("model/test_draft.py",),
    ),
)
