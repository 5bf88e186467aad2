"""Faults in code for devices, which only a device would show. Their format is that of faults.py."""

from tests.faults.faults import Fault

FAULTS = (
    Fault(
        "a product that is launched early does not wait for the kernel before it",
        "triton_kernels/linear.py",
        "        wait_for_previous()",
        "        pass",
        ("triton_kernels/test_early.py",),
    ),
    Fault(
        "a product of integers adds the groups of a turn in another order",
        "triton_kernels/integer_words.py",
        "found = (a0, a1, a2, a3, a4, a5, a6, a7)",
        "found = (a0, a2, a1, a3, a4, a5, a6, a7)",
        ("triton_kernels/test_integer_linear.py",),
    ),
    Fault(
        "levels of int4 on a device do not lose their zero",
        "triton_kernels/integer_words.py",
        "sums -= ZERO * of_q[:, None]",
        "sums -= 0 * of_q[:, None]",
        ("triton_kernels/test_integer_linear.py",),
    ),
    Fault(
        "a product with heads rotates values, too",
        "triton_kernels/heads.py",
        "first = tl.where(is_value, a, a * cosines - b * sines).to(dtype)",
        "first = (a * cosines - b * sines).to(dtype)",
        ("triton_kernels/test_heads.py",),
    ),
    Fault(
        "the modules export operator new",
        "csrc/core/exports.map",
        "  local: *;\n",
        "",
        ("engine/test_exports.py",),
    ),
    Fault(
        "two lanes reach all of the memory's rate",
        "bench/gpu/cost_file.py",
        "(one.busy + other.busy) / SHARING",
        "one.busy + other.busy",
        ("bench/test_costs.py",),
    ),
    Fault(
        "the path of a tree is not moved if the next policy makes paths",
        "csrc/decode/pump.cc",
        "!makes_paths(p) || seats_[i].trees > 0;",
        "!makes_paths(p);",
        ("gpu/test_auto.py",),
    ),
    Fault(
        "log-probs of a device count ids that no token has",
        "csrc/round/logprob_op.h",
        "hole && hole[i] ? -__builtin_inff()",
        "hole && hole[i] ? logits[i]",
        ("gpu/test_logprobs.py",),
    ),
    Fault(
        "a device forgets the last row that a seat verified, if it asks for log-probs",
        "csrc/round/logprob_op.h",
        "o.error ? o.n : o.n + 1); depth += kLogprobBlocks",
        "o.n); depth += kLogprobBlocks",
        ("gpu/test_logprobs.py",),
    ),
    Fault(
        "bad words on a device begin after the prompt's last token",
        "triton_kernels/ban.py",
        "seen = [*trunk[max(0, len(trunk) - longest) :].tolist(), *path]",
        "seen = [*path]",
        ("gpu/test_bad_words.py",),
    ),
    Fault(
        "a device copies one position too few of a prompt that another seat has",
        "csrc/decode/prompts.cc",
        "(positions.end - positions.begin) * block.slot_bytes;",
        "(positions.end - positions.begin - 1) * block.slot_bytes;",
        ("gpu/test_prefixes.py",),
    ),
    Fault(
        "a device reuses the KV of answers, which rounds computed",
        "csrc/decode/seat_table.cc",
        "return {seat.fed[0].tokens, seat.fed[1].tokens};",
        "return {seat.sequence.head(), seat.fed[1].tokens};",
        ("gpu/test_prefixes.py",),
    ),
    Fault(
        "a lane with flash attention lends KV whose bits depend on the piece",
        "sbrt/gpu/lane.py",
        "differs = self.flash is not None or self.few is self.decoder",
        "differs = self.few is self.decoder",
        ("gpu/test_prefixes.py",),
    ),
)
