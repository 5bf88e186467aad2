"""The kernels that shape, filter and choose, as offline.py compiles them."""

from sbrt.triton_kernels import ban, choose, cut, radix, rate, shaping, words
from sbrt.triton_kernels.choose_plan import ChoosePlan

from .cases import DTYPES, Case


def shape_cases():
    types = dict.fromkeys(("Block", "Table", "Counts", "Ids"), "*i32")
    types |= {"TokenMask": "*u8", "Seen": "*u8", "Bias": "*fp32", "Out": "*fp32"}
    for dtype in DTYPES:
        for trimmed in (False, True):
            given = types | {"Logits": dtype}
            constants = {"CHUNK": 1024, "SLOTS": 64, "HAS_IDS": trimmed}
            name = "trimmed" if trimmed else ""
            yield Case(shaping._shape_kernel, name, dtype, given, constants, 4, False, not trimmed)


def ban_cases():
    types = dict.fromkeys(("Block", "Table", "Words", "Trunk", "Ids"), "*i32") | {"Out": "*fp32"}
    sizes = {"WORDS": ban.WORDS, "SPLITS": ban.SPLITS, "SLOTS": 64, "SEARCH": ban.SEARCH}
    for trimmed in (False, True):
        given = sizes | {"HAS_IDS": trimmed}
        name = "trimmed" if trimmed else ""
        yield Case(ban._ban_kernel, name, "*i32", types, given, 1, False, not trimmed)


def cut_cases():
    """Yield the cases of the kernels that filter a row of 128,256 logits."""
    words = dict.fromkeys(("Dist", "Table", "Tokens", "Counters", "Cut"), "*i32")
    words |= dict.fromkeys(("State", "Units", "Parts"), "*i64")
    sizes, warps = cut.constants(4096, 32), cut.num_warps(4096)
    for dtype in DTYPES:
        given = words | {"Logits": dtype}
        for kernel in (cut._begin_cut_kernel, cut._end_cut_kernel):
            yield Case(kernel, "", dtype, given, sizes, warps, False, True)
        for digit, shift in enumerate(radix.SHIFTS):
            constants = sizes | {"DIGIT": digit, "SHIFT": shift}
            kernel, name = radix._digit_kernel, f"digit {digit}"
            yield Case(kernel, name, dtype, given, constants, warps, False, digit == 0)


def choose_cases():
    types = dict.fromkeys(("Cut", "Ids", "Block", "Table", "Token", "Counters", "Out"), "*i32")
    types |= {"Score": "*fp64", "Stat": "*fp32", "Scores": "*fp32"}
    for dtype in DTYPES:
        for dists, shaped, filtered, trimmed, keeps in (
            *((0, 0, 0, 0, 0), (0, 1, 1, 0, 0), (1, 0, 0, 0, 0), (1, 1, 1, 0, 0)),
            *((1, 0, 0, 1, 0), (1, 1, 1, 1, 0), (0, 0, 1, 0, 1), (1, 0, 1, 0, 1), (1, 1, 1, 1, 1)),
        ):
            flags = map(bool, (dists, shaped, filtered))
            plan = ChoosePlan(16, 128_256, *flags, trimmed=bool(trimmed), keeps=bool(keeps))
            given = types | {"Logits": dtype, "Shaped": "*fp32" if shaped else dtype}
            name = ("dists" if dists else "tokens") + ", shaped" * shaped + ", filtered" * filtered
            name += ", trimmed" * trimmed + ", scores" * keeps
            warps, constants = plan.num_warps, choose.constants(plan)
            core = not shaped and (not (trimmed or keeps) or dtype == "*fp32")
            yield Case(
                *(choose._choose_kernel, name, dtype, given, constants, warps, False, core),
                words.TWO_PROGRAMS,
            )
    types = dict.fromkeys(("Block", "Table", "Counters", "Out"), "*i32")
    types |= {"Scores": "*fp32", "Blind": "*fp32"}
    plan = ChoosePlan(16, 128_256, dists=True, keeps=True)
    warps, constants = plan.num_warps, rate.constants(plan)
    yield Case(rate._rate_kernel, "", "*i32", types, constants, warps, False, True)
