"""`python -m bench.models.inflate --to 75M OUT`: enlarges a model without changing its logits.

The command widens MLPs and adds layers whose output projections are zero. Every other new weight is
random. A new zero column of down_proj only appends zero products to each sum, and a new layer adds
zero to the residual stream. So logits stay bitwise the same in an engine that adds products in the
order of the columns.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.models.folders import TOKENIZER, write_folder
from sbrt import InvalidInputError
from sbrt.model import demo_pair
from sbrt.model.checkpoint import Checkpoint, expected_shapes, open_checkpoint
from sbrt.model.config import ModelConfig, read_json
from sbrt.model.safetensors_file import bfloat16
from sbrt.tools import flags

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bits = NDArray[np.uint16]

MOST_LAYERS = 24
# The number of added neurons is a multiple of this. So groups of every quantised format are full.
STEP = 64
CLOSE = 0.02  # largest relative difference to the requested number of parameters
UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}
OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def inflate(source: Path, parameters: int, out: Path, seed: int = 0) -> ModelConfig:
    """Write `source`, inflated to `parameters` parameters within 2 %, to the folder `out`.

    Returns the config of the new model. Raises InvalidInputError for weights that are not bfloat16,
    for fewer parameters than the source has, and for a number that no number of neurons gives.
    """
    checkpoint = open_checkpoint(source)
    if checkpoint.storage("auto") != "bfloat16":
        raise InvalidInputError(f"{source}: expected bfloat16 weights, got others")
    if checkpoint.config.local:
        raise InvalidInputError(
            f"{source}: expected layers that are all alike, got some with a window"
        )
    config = larger(checkpoint.config, parameters)
    raw = read_json(source / "config.json")
    raw |= {"num_hidden_layers": config.layers, "intermediate_size": config.inner}
    write_folder(out, raw, _weights(checkpoint, config, seed))
    for name in TOKENIZER:
        if (source / name).is_file():
            (out / name).write_bytes((source / name).read_bytes())
    return config


def larger(config: ModelConfig, parameters: int) -> ModelConfig:
    """Return the config with as many layers as fit, then as many neurons as fit.

    Raises InvalidInputError if no such config has about this number of parameters.
    """
    fitting = [
        n
        for n in range(config.layers, max(config.layers, MOST_LAYERS) + 1)
        if count(replace(config, layers=n)) <= parameters * (1 + CLOSE)
    ]
    if not fitting:
        raise InvalidInputError(
            f"--to: expected at least the {count(config)} parameters there are, got {parameters}"
        )
    deep = replace(config, layers=fitting[-1])
    neurons = (parameters - count(deep)) / (3 * config.hidden * deep.layers)
    wide = replace(deep, inner=config.inner + STEP * max(0, round(neurons / STEP)))
    if abs(count(wide) / parameters - 1) > CLOSE:
        raise InvalidInputError(
            f"--to: expected a size that whole neurons give, got {parameters}; near: {count(wide)}"
        )
    return wide


def count(config: ModelConfig) -> int:
    """Return the number of parameters of a checkpoint. A tied embedding counts once."""
    return sum(math.prod(shape) for shape in expected_shapes(config).values())


def _weights(checkpoint: Checkpoint, config: ModelConfig, seed: int) -> Iterator[tuple[str, Bits]]:
    import numpy as np

    generator = np.random.default_rng(seed)
    old = {
        name: data.view(np.uint16).reshape(entry.shape)
        for file in checkpoint.files
        for name, entry, data in file.read()
    }
    for name, shape in expected_shapes(config).items():
        if name in old and old[name].shape == shape:
            yield name, old[name]
            continue
        if name.endswith("norm.weight"):
            new = bfloat16(np.ones(shape, np.float32))
        elif name.endswith((*OUTPUTS, ".bias")):
            new = np.zeros(shape, np.uint16)
        else:
            new = bfloat16(generator.standard_normal(shape, np.float32) * np.float32(0.02))
        if name in old:  # an MLP's matrix that was widened: its old part keeps the old weights
            new[tuple(slice(n) for n in old[name].shape)] = old[name]
        yield name, new


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 after a defect, 2 for bad input."""
    return flags.guarded("bench.models.inflate", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = flags.Parser(
        prog="python -m bench.models.inflate", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    add("--to", required=True, metavar="75M", help="parameters, within 2 %%")
    add("--source", type=Path, metavar="DIR", help="Hugging Face folder (default: the demo target)")
    args = parser.parse_args(argv)
    parameters = _parameters(args.to)
    if args.out.exists():
        raise InvalidInputError(f"OUT: expected a folder that does not exist, got {args.out}")
    config = inflate(args.source or demo_pair.demo_folder(demo_pair.TARGET), parameters, args.out)
    print(f"{args.out}: {count(config)} parameters, {config.layers} layers, inner {config.inner}")
    return 0


def _parameters(text: str) -> int:
    digits, unit = (text[:-1], UNITS[text[-1]]) if text[-1:] in UNITS else (text, 1)
    if not digits.isdecimal() or not 1 <= int(digits) <= 10**12 // unit:
        raise InvalidInputError(f"--to: expected parameters as 75M, got {text!r}")
    return int(digits) * unit


if __name__ == "__main__":
    sys.exit(main())
