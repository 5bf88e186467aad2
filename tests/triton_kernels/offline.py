"""Compile every kernel of triton_kernels/ for real GPUs, on a machine without one.

`python -m tests.triton_kernels.offline [--all|--core] [--dtype bf16] [--table]` prints one JSON
object per cubin, or the table in docs/measured. TRITON_INTERPRET must not be set.

Without an option, the usual configurations are compiled in every dtype. With --all, all
configurations are compiled. With --core, every kernel is compiled once on sm_90, one product on the
other architectures, and the configurations of `is_watched`.
"""

import argparse
import json
import multiprocessing
import os
from dataclasses import replace
from functools import partial

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.gpu.sass import NVDISASM, fitting, instructions, product_loop, resources
from sbrt.triton_kernels import (
    attention,
    cut,
    embed,
    gate,
    integer_linear,
    linear,
    norm,
    radix,
    rope,
    round_rows,
    settle,
    visible,
    words,
)
from sbrt.triton_kernels.linear_plan import LinearPlan
from sbrt.triton_kernels.plan import FAN, AttentionPlan

from .cases import DTYPES, GEMMAS, MODELS, Case, head_types, heads_of, ones
from .choice_cases import ban_cases, choose_cases, cut_cases, shape_cases
from .integer_cases import integer_cases

ARCHITECTURES = (80, 90, 100)
# Limit in bytes of a program's shared memory (CUDA programming guide, compute capabilities).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


def norm_cases():
    for dtype in DTYPES:
        for name in ("plain", "residual", "after"):
            is_after = name == "after"  # Gemma 3: the weights are float32
            types = dict.fromkeys(("X", "R", "Out"), dtype) | {"columns": "i32", "eps": "fp32"}
            types |= dict.fromkeys(("W", "After"), "*fp32" if is_after else dtype)
            constants = {"HAS_RESIDUAL": name != "plain", "HAS_AFTER": is_after}
            constants["BLOCK"] = 8192 if is_after else 2048
            kernel, warps = norm._rms_norm_kernel, norm.num_warps(constants["BLOCK"])
            most = norm.max_registers(is_after)
            yield Case(kernel, name, dtype, types, constants, warps, not is_after, True, most)


def see_cases():
    types = dict.fromkeys(("Table", "Slots", "Meta", "Items"), "*i32")
    types |= dict.fromkeys(("Firsts", "Members"), "*i64")
    constants = {"TILE_ROWS": 16, "SPLIT": 256, "FAN": FAN, "ROWS": 64}
    for rows in (16, 64):
        given, warps = constants | {"M": rows}, visible.num_warps(rows)
        yield Case(visible._see_kernel, f"{rows} rows", "*i32", types, given, warps, True, True)


def attention_plans(dtype):
    """Yield (name, plan, core). core: True if the default tests compile this plan."""
    for head_dim in (64, 128, 256):
        # With heads of 256, groups of 2 and 4 are those of Gemma 3.
        for rows, heads, kv_heads in (
            *((1, 32, 8), (16, 32, 8), (64, 32, 8), (7, 7, 1)),
            *(((1, 8, 4), (16, 8, 4), (64, 8, 4)) if head_dim == 256 else ()),
        ):
            sizes = {"rows": rows, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
            plan = AttentionPlan(capacity=8256, dtype=dtype, **sizes)
            name = f"head_dim {head_dim}, {rows} rows x {plan.group}"
            yield name, plan, (head_dim, rows) == (128, 16)


def attention_cases():
    pointers = ("Slots", "Meta", "Items", "Counters")
    for dtype, torch_dtype in DTYPES.items():
        types = dict.fromkeys(("Q", "K", "V", "Out"), dtype) | dict.fromkeys(pointers, "*i32")
        types |= {"Partial": "*fp32", "Dist": "*fp32", "scale": "fp32"}
        types |= {"OutScale": "*fp32", "OutSums": "*i32"}
        types |= dict.fromkeys(("Firsts", "Members"), "*i64")
        for name, plan, core in attention_plans(torch_dtype):
            # The constants and the warps depend on the architecture, whose registers limit the
            # queries of a program.
            warps = partial(attention_warps, plan)
            for rounds in (False, True) if dtype == "*bf16" else (False,):
                given = types | ({"Out": "*i8"} if rounds else {})
                yield Case(
                    *(attention._branch_attention_kernel, name + ", rounded" * rounds, dtype),
                    *(given, partial(attention_constants, plan, rounds), warps, False, core),
                    words.MAX_REGISTERS,
                )


def attention_constants(plan, rounds, architecture):
    plan = replace(plan, architecture=architecture)
    sizes = {"kv_heads": plan.kv_heads, "units": plan.units}
    return attention.constants(plan, False, rounds=rounds) | ones(sizes)


def attention_warps(plan, architecture):
    return replace(plan, architecture=architecture).num_warps


def rope_cases():
    floats = dict.fromkeys(("amplitude", "eps"), "fp32")
    for dtype in DTYPES:
        for half, norm_too, wide in (
            *((64, False, False), (64, True, False), (32, False, False), (128, True, False)),
            (128, True, True),
        ):
            types = dict.fromkeys(("QKV", "K", "V", "QWeight", "KWeight"), dtype) | floats
            types |= {"Table": "*i32", "InvFreq": "*fp32"}
            types |= dict.fromkeys(("QWeight", "KWeight"), "*fp32") if wide else {}
            constants = {"HALF": half, "HAS_NORM": norm_too, "EARLY": False}
            name = f"head_dim {2 * half}" + ", head norm" * norm_too + " in float32" * wide
            kernel, warps = rope._rope_kv_write_kernel, rope.num_warps(half)
            yield Case(kernel, name, dtype, types, constants, warps, False, half == 64)


def settle_cases():
    for dtype in DTYPES:
        for what, poison in ((w, p) for w in settle.Settle for p in (False, True)):
            types = dict.fromkeys(("Block", "Roll", "Ended"), "*i32")
            types |= {"KV": dtype, "v_offset": "i64"}
            constants = settle.constants(128, what, poison, True)
            name = what.name.lower() + ", poison" * poison
            core = what is settle.Settle.DRAFT
            yield Case(settle._ring_settle_kernel, name, dtype, types, constants, 4, True, core)


def gate_cases():
    for dtype in DTYPES:
        types = {"X": dtype, "Out": dtype}
        for gelu in (False, True):
            constants, name = {"BLOCK": gate.BLOCK, "GELU": gelu}, "gelu" if gelu else ""
            yield Case(gate._gate_mul_kernel, name, dtype, types, constants, 4, True, not gelu)


def embed_cases():
    for dtype in DTYPES:
        types = {"Table": "*i32", "Weight": dtype, "Out": dtype, "amplitude": "fp32"}
        types |= dict.fromkeys(("Squares", "Angles", "InvFreq"), "*fp32")
        constants = {"BLOCK": embed.BLOCK, "PART": norm.PART}
        for half, factor in ((0, 1.0), (64, 1.0), (0, 62.0)):
            given = constants | {"HALF": half, "ROWS": 64, "FACTOR": factor}
            given["HAS_SQUARES"] = factor == 1
            name = "angles" if half else "scaled" if factor != 1 else ""
            yield Case(embed._embed_kernel, name, dtype, types, given, 4, True, half > 0)


def is_wanted(model, rows, dtype):
    """Return True if the products of this model with this number of rows are compiled in this
    dtype.

    These are the 8B model in both 16-bit dtypes, the demo pair in float32, and every model in
    bfloat16 with 16 or 64 rows.
    """
    if dtype == torch.float32:
        return "demo" in model
    return model == "8B" or (dtype == torch.bfloat16 and rows in (16, 64))


def products(rows, dtype):
    """Yield (name, plan) of every product that `is_wanted` selects."""
    for model, (hidden, inner, q, qkv, vocab) in MODELS.items():
        if not is_wanted(model, rows, dtype):
            continue
        given = {"rows": rows, "dtype": dtype}
        heads = heads_of(hidden, q, qkv)
        yield f"{model} qkv", LinearPlan(n=qkv, k=hidden, norm=True, heads=heads, **given)
        yield f"{model} o", LinearPlan(n=hidden, k=q, residual=True, **given)
        yield f"{model} gate_up", LinearPlan(n=inner, k=hidden, norm=True, gate=True, **given)
        yield f"{model} down", LinearPlan(n=hidden, k=inner, residual=True, **given)
        yield f"{model} head", LinearPlan(n=vocab, k=hidden, norm=True, **given)


def gemma_products(rows, dtype):
    """Yield (name, plan) of every product of Gemma 3, whose norms are calls of their own."""
    if rows == 32 or dtype != torch.bfloat16:
        return
    for model, (hidden, inner, q, qkv, vocab) in GEMMAS.items():
        given = {"rows": rows, "dtype": dtype}
        yield f"{model} qkv", LinearPlan(n=qkv, k=hidden, **given)
        yield f"{model} o", LinearPlan(n=hidden, k=q, **given)
        yield f"{model} gate_up", LinearPlan(n=inner, k=hidden, gate=True, gelu=True, **given)
        yield f"{model} down", LinearPlan(n=hidden, k=inner, **given)
        yield f"{model} head", LinearPlan(n=vocab, k=hidden, **given)


def linear_cases():
    for dtype, torch_dtype in DTYPES.items():
        types = dict.fromkeys(("X", "W", "Bias", "Norm", "Residual", "Out"), dtype)
        types |= head_types(dtype)
        types |= {"Squares": "*fp32", "Partial": "*fp32", "Counters": "*i32", "eps": "fp32"}
        for rows in (1, 16, 32, 64):
            found = [*products(rows, torch_dtype), *gemma_products(rows, torch_dtype)]
            for name, plan in found:
                given = types | ({"Out": "*fp32"} if "head" in name else {})
                constants = linear.constants(plan, False) | ones({"rows": rows})
                core = (name, rows) == ("8B gate_up", 16) or (dtype == "*fp32" and "draft" in name)
                yield Case(
                    *(linear._linear_kernel, f"{name}, {rows} rows", dtype, given, constants),
                    *(plan.num_warps, False, core, partial(linear.max_registers, plan)),
                )


def round_cases():
    for dtype in DTYPES:
        for norm_too, after, columns in (
            *((True, False, 4096), (False, False, 4096), (True, False, 2048)),
            *((True, True, 2048), (True, True, 8192)),
        ):
            types = {"X": dtype, "R": dtype, "Q": "*i8", "Scales": "*fp32", "Sums": "*i32"}
            types |= dict.fromkeys(("Norm", "After"), "*fp32" if after else dtype)
            types |= {"eps": "fp32"}
            constants = {"NORM": norm_too, "AFTER": after, "BLOCK": columns, "EARLY": False}
            kernel, warps = round_rows._round_rows_kernel, round_rows.num_warps(columns)
            name = f"{columns} columns" + ", norm" * norm_too + " after a norm" * after
            yield Case(kernel, name, dtype, types, constants, warps, False, columns == 4096)


CASES = (
    *(norm_cases, see_cases, attention_cases, rope_cases, settle_cases, gate_cases, embed_cases),
    *(linear_cases, integer_cases, round_cases),
    *(shape_cases, ban_cases, cut_cases, choose_cases),
)


def source_of(case):
    """Return the source that a launch compiles. Pointers and strides are multiples of 16, as in
    torch's tensors."""
    signature, aligned = {}, {}
    for i, name in enumerate(case.kernel.arg_names):
        if name in case.constants:
            signature[name] = "constexpr"
            continue
        signature[name] = case.types.get(name, "i32")
        if signature[name].startswith("*") or name.endswith("_stride"):
            aligned[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(case.kernel, signature, constexprs=case.constants, attrs=aligned)


def issue_slots(case, warps, cubin):
    """Return the instruction issue slots per KiB that a kernel streams; None for a kernel that
    streams no weights or logits.

    A product counts the slots of one loop iteration, per KiB of weights and scales. A pass over
    logits counts the slots of a program up to its arrival, per KiB of logits.
    """
    size = {"*fp32": 4}.get(case.dtype, 2)
    sizes = case.constants
    if case.kernel is linear._linear_kernel and size == 2:
        streamed = sizes["BLOCK_K"] * sizes["BLOCK_N"] * (2 if sizes["GATE"] else 1) * size
        return len(product_loop(*instructions(cubin))) * warps / (streamed / 1024)
    if case.kernel is integer_linear._integer_linear_kernel:
        numbers = 4 * (2 if sizes["MINIMUMS"] else 1) / sizes["GROUP"]
        each = numbers + (0.5 if sizes["HALVES"] else 1)
        streamed = 32 * sizes["TURN"] * sizes["BLOCK_N"] * (2 if sizes["GATE"] else 1) * each
        return len(product_loop(*instructions(cubin))) * warps / (streamed / 1024)
    if case.kernel in PASSES:
        found, _ = instructions(cubin)
        arrival = next(i for i, (name, _) in enumerate(found) if name.startswith("ATOMG"))
        return arrival * warps / (sizes["CHUNK"] * size / 1024)
    return None


PASSES = (cut._begin_cut_kernel, radix._digit_kernel, cut._end_cut_kernel)


def settled(case, architecture):
    """Return the case with the constants, warps and registers of one architecture."""
    given = {name: getattr(case, name) for name in ("constants", "warps", "registers")}
    return case._replace(**{k: v(architecture) if callable(v) else v for k, v in given.items()})


def key_of(case, architecture):
    """Return all that the compiler is given. Products of two models often have equal keys."""
    case = settled(case, architecture)
    given = sorted(case.types.items()), sorted(case.constants.items())
    how = case.warps, case.registers, case.fusion
    return case.kernel.__name__, case.dtype, *how, architecture, repr(given)


def compiled(case, architecture):
    case = settled(case, architecture)
    warps = case.warps
    options = {"num_warps": warps, "enable_fp_fusion": case.fusion}
    options |= {"maxnreg": case.registers} if case.registers else {}
    target = GPUTarget("cuda", architecture, 32)
    binary = triton.compile(source_of(case), target=target, options=options)
    registers, local = resources(binary.asm["cubin"])
    slots = None
    if architecture == 90 and NVDISASM.exists():
        slots = issue_slots(case, warps, binary.asm["cubin"])
    return {
        "kernel": case.kernel.__name__,
        "configuration": case.configuration,
        "dtype": case.dtype,
        "architecture": architecture,
        "warps": warps,
        "registers": registers,
        "local_bytes": local,
        "shared_bytes": binary.metadata.shared,
        "shared_limit": SHARED_LIMIT[architecture],
        "programs": fitting(warps, registers, binary.metadata.shared, architecture),
        "slots_per_kib": slots,
        "cubin_bytes": len(binary.asm["cubin"]),
    }


TASKS = []  # pairs (case, architecture) for the processes that all_of() forks


def compiled_task(i):
    return compiled(*TASKS[i])


def all_of(tasks):
    """Yield the results of all tasks, in order. Tasks with equal keys are compiled once. Several
    tasks run in parallel, because a compilation has only one thread."""
    keys = [key_of(*task) for task in tasks]
    first = {key: task for key, task in reversed(list(zip(keys, tasks, strict=True)))}
    place = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    TASKS[:] = [first[key] for key in place]
    found = []
    jobs = int(os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "2"))
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        results = pool.imap(compiled_task, range(len(TASKS)))
        for (case, _), key in zip(tasks, keys, strict=True):
            while len(found) <= place[key]:
                found.append(next(results))
            yield found[place[key]] | {"configuration": case.configuration}


def table(cubins):
    """Yield lines of Markdown: warps / registers / KiB of shared memory for each architecture, and
    bytes of local memory."""
    rows = {}
    for c in cubins:
        key = (c["kernel"].strip("_"), c["configuration"], c["dtype"][1:])
        cell = f"{c['warps']} / {c['registers']} / {c['shared_bytes'] / 1024:.1f}"
        spilled = f" ({c['local_bytes']} B local)" if c["local_bytes"] else ""
        rows.setdefault(key, []).append(cell + spilled)
    names = " | ".join(f"sm_{a}" for a in ARCHITECTURES)
    yield f"| kernel | configuration | dtype | {names} |"
    yield "|---|---|---|" + "---|" * len(ARCHITECTURES)
    for key, cells in rows.items():
        yield "| " + " | ".join(str(x) for x in (*key, *cells)) + " |"


def is_watched(case):
    """Return True if the default tests check the case's programs and issue slots on sm_90."""
    name = (case.kernel, case.configuration, case.dtype)
    if case.kernel in PASSES:
        return case.dtype == "*fp32"
    return name in (
        (linear._linear_kernel, "8B gate_up, 32 rows", "*bf16"),
        (linear._linear_kernel, "8B gate_up, 64 rows", "*bf16"),
        (attention._branch_attention_kernel, "head_dim 64, 1 rows x 4", "*bf16"),
        (integer_linear._integer_linear_kernel, "int8 8B down, 16 rows", "*bf16"),
        (integer_linear._integer_linear_kernel, "int4 8B gate_up, 16 rows", "*bf16"),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every configuration")
    parser.add_argument(
        "--core", action="store_true", help="every kernel once, in bfloat16 on sm_90"
    )
    parser.add_argument("--table", action="store_true", help="as Markdown")
    parser.add_argument("--only", default="", help="kernels whose name holds this")
    parser.add_argument("--dtype", default="", help="fp16, bf16 or fp32 (default: all)")
    args = parser.parse_args()
    every = [case for cases in CASES for case in cases()]
    cases = [case for case in every if args.all or case.core]
    if args.core:
        halves = [case for case in cases if case.dtype in ("*bf16", "*i32")]
        cases = list({case.kernel.__name__: case for case in halves}.values())
    cases = [case for case in cases if args.only in case.kernel.__name__]
    cases = [case for case in cases if case.dtype in ("*i32", f"*{args.dtype or case.dtype[1:]}")]
    tasks = [(case, architecture) for case in cases for architecture in ARCHITECTURES]
    if args.core:
        tasks = [(c, a) for c, a in tasks if a == 90 or c.kernel is linear._linear_kernel]
        tasks += [(case, 90) for case in every if is_watched(case)]
    for line in table(list(all_of(tasks))) if args.table else map(json.dumps, all_of(tasks)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
