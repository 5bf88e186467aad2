"""The products with quantised weights that offline.py compiles."""

import torch

from sbrt.triton_kernels import integer_linear
from sbrt.triton_kernels.integer_plan import IntegerPlan
from sbrt.triton_kernels.packed import PackedFormat

from .cases import DTYPES, GEMMAS, MODELS, Case, head_types, heads_of, ones

FORMATS = {
    "int8": PackedFormat("int8", 64),
    "int4": PackedFormat("int4", 32, True),
    "Q8_0": PackedFormat("int8", 32),
    "Q4_0": PackedFormat("int4", 32, zero=8),
    "Q6_K": PackedFormat("int8", 16),
    "Q2_K": PackedFormat("int8", 16, True),
}


def integer_products(rows, dtype, kind):
    """Yield (name, plan) of every product of a 1B and an 8B model, with weights of one format. For
    int8 and int4 in bfloat16 also yield those of Gemma 3 with 16 rows."""
    for model in ("1B", "8B"):
        hidden, inner, q, qkv, vocab = MODELS[model]
        given = {"rows": rows, "dtype": dtype, "format": FORMATS[kind]}
        yield f"{model} qkv", IntegerPlan(n=qkv, k=hidden, heads=heads_of(hidden, q, qkv), **given)
        yield f"{model} o", IntegerPlan(n=hidden, k=q, residual=True, **given)
        yield f"{model} gate_up", IntegerPlan(n=inner, k=hidden, gate=True, rounds=True, **given)
        yield f"{model} down", IntegerPlan(n=hidden, k=inner, residual=True, **given)
        yield f"{model} head", IntegerPlan(n=vocab, k=hidden, **given)
    if rows != 16 or dtype != torch.bfloat16 or kind not in ("int8", "int4"):
        return
    for model, (hidden, inner, q, qkv, _) in GEMMAS.items():
        given = {"rows": rows, "dtype": dtype, "format": FORMATS[kind]}
        gated = {"gate": True, "gelu": True, "rounds": True}
        yield f"{model} qkv", IntegerPlan(n=qkv, k=hidden, **given)
        yield f"{model} o", IntegerPlan(n=hidden, k=q, **given)
        yield f"{model} gate_up", IntegerPlan(n=inner, k=hidden, **gated, **given)
        yield f"{model} down", IntegerPlan(n=hidden, k=inner, **given)


def integer_cases():
    """Yield the cases with 16 rows in every format and dtype. For int8 and int4 also yield cases
    with other numbers of rows, in bfloat16."""
    for dtype, torch_dtype in DTYPES.items():
        for kind, known in FORMATS.items():
            types = dict.fromkeys(("Bias", "Residual", "Out"), dtype) | {
                **head_types(dtype),
                **dict.fromkeys(("Q", "OutQ"), "*i8"),
                **dict.fromkeys(("XScale", "OutScale", "Scale", "Minimum"), "*fp32"),
                **dict.fromkeys(("Sums", "OutSums"), "*i32"),
                "W": "*u8" if known.element == "int4" else "*i8",
            }
            usual = kind in ("int8", "int4") and dtype == "*bf16"
            for rows in (1, 16, 32, 64) if usual else (16,):
                for name, plan in integer_products(rows, torch_dtype, kind):
                    given = types | ({"Out": "*fp32"} if "head" in name else {})
                    constants = integer_linear.constants(plan, False) | ones({"rows": rows})
                    core = (name, rows, kind) == ("8B gate_up", 16, "int8")
                    yield Case(
                        *(integer_linear._integer_linear_kernel, f"{kind} {name}, {rows} rows"),
                        *(dtype, given, constants, plan.num_warps, False, core, plan.max_registers),
                    )
