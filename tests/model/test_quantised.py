"""Contract under test: weights that a file stores quantised are used unchanged."""

import numpy as np
import pytest

from sbrt import _core

F32 = np.float32
ISAS = _core.instruction_sets()
FORMATS = [
    ("int4", 32, "float16", "float16"), ("int8", 16, "float32"), ("int8", 32, "float16"),
    ("int4", 32, "float32", "float32"), ("int4", 32, "float16", "none", 8),
    ("int4", 128, "float16", "float32"), ("int8", 64, "float32"),
]  # fmt: skip
SIZES = [
    {"head_dim": 16},  # q, k and v fill whole panels and keep their formats
    {"head_dim": 10},  # q, k and v share panels, and so one format
    {"head_dim": 16, "tied": True},
    {"head_dim": 64, "hidden": 96, "heads": 2, "kv_heads": 1, "qkv_bias": True},
    {  # Gemma 3, which applies norms to the outputs of attention and MLP
        "head_dim": 32,
        "window": 12,
        "local": [True, False],
        "local_theta": 1e3,
        "gelu": True,
        "head_norms": True,
        "post_norms": True,
        "scaled_embedding": True,
        "tied": True,
    },
]


def matrices(shapes):
    return [name for name in shapes if len(shapes[name]) == 2]


class Quantised:
    """Random levels for every matrix of a decoder. The formats of the matrices differ."""

    def __init__(self, tools, sizes, float_matrices=()):
        self.sizes = tools.SIZES | sizes
        self.shapes = tools.shapes_of(self.sizes)
        rng = np.random.default_rng(1)
        self.formats, self.levels, self.floats = {}, {}, {}
        for i, (name, shape) in enumerate(self.shapes.items()):
            if len(shape) == 1 or name in float_matrices:
                self.floats[name] = rng.standard_normal(shape, F32) * F32(0.2) + ("norm" in name)
                continue
            self.formats[name] = FORMATS[i % len(FORMATS)]
            self.levels[name] = self.random_levels(rng, FORMATS[i % len(FORMATS)], shape)

    @staticmethod
    def random_levels(rng, given, shape):
        element, group, scales, *rest = given
        groups = (shape[0], -(-shape[1] // group))
        low, high = (-128, 128) if element == "int8" else (0, 16)
        levels = rng.integers(low, high, shape)
        size = F32(2 / (high - low) / 8)
        found = [(rng.random(groups, F32) + F32(0.5)) * size, None]
        if rest and rest[0] != "none":
            found[1] = -found[0] * F32((high + low) / 2 + 0.25)
        kinds = [scales, rest[0] if rest else "none"]
        found = [
            a.astype(np.float16).astype(F32) if kind == "float16" else a
            for a, kind in zip(found, kinds, strict=True)
        ]
        return levels.astype(np.int8), *found

    def weights(self, name):
        """Return the weights of a tensor as float32. Each operation rounds to float32."""
        if name in self.floats:
            return self.floats[name]
        levels, scales, minimums = self.levels[name]
        group = self.formats[name][1]
        zero = self.formats[name][4] if len(self.formats[name]) > 4 else 0
        each = np.repeat(scales, group, axis=1)[:, : levels.shape[1]]
        out = (levels.astype(F32) - F32(zero)) * each
        if minimums is not None:
            out += np.repeat(minimums, group, axis=1)[:, : levels.shape[1]]
        return out

    def decoder(self, isa="auto", activations="float32", piece=7):
        named = {name: _core.Format(*given) for name, given in self.formats.items()}
        config = _core.DecoderConfig(**self.sizes)
        decoder = _core.Decoder(config, "float32", isa, activations, named)
        for name, values in self.floats.items():
            decoder.load(name, "F32", values.shape, values.astype(F32).view(np.uint8))
        for name, (levels, scales, minimums) in self.levels.items():
            for first in range(0, len(levels), piece):
                part = slice(first, first + piece)
                of_part = None if minimums is None else minimums[part]
                decoder.load_quantised(name, levels[part], scales[part], of_part, first)
        decoder.finish()
        return decoder

    def widened(self, isa="auto"):
        """Return a decoder that stores the same weights as float32."""
        decoder = _core.Decoder(_core.DecoderConfig(**self.sizes), "float32", isa)
        for name in self.shapes:
            values = np.ascontiguousarray(self.weights(name), F32)
            decoder.load(name, "F32", values.shape, values.view(np.uint8))
        decoder.finish()
        return decoder


def logits_of(tools, decoder, n=20):
    lane = tools.Sequence(decoder, threads=3)
    return lane.chunk(np.random.default_rng(0).integers(0, 67, n).tolist(), 3)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_row_is_the_dequantised_row(tools, sizes):
    made = Quantised(tools, sizes)
    decoder = made.decoder()
    for name in matrices(made.shapes):
        rows = [decoder.row(name, i) for i in range(made.shapes[name][0])]
        assert np.array_equal(rows, made.weights(name)), name
    if made.sizes["tied"]:
        embedding = made.weights("model.embed_tokens.weight")
        assert np.array_equal(decoder.row("lm_head.weight", 5), embedding[5])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_in_float32_the_logits_are_those_of_the_dequantised_weights(tools, sizes, isa):
    made = Quantised(tools, sizes)
    expected = logits_of(tools, made.widened(isa))
    assert np.array_equal(logits_of(tools, made.decoder(isa)), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_row_of_mixed_formats_is_the_row_alone(tools, sizes, isa):
    made = Quantised(tools, sizes, ["model.layers.1.self_attn.o_proj.weight"])
    decoder = made.decoder(isa, "int8")
    tokens = np.random.default_rng(0).integers(0, 67, 60).tolist()
    alone = tools.Sequence(decoder).alone(tokens)
    lane, parts = tools.Sequence(decoder, threads=9, debug=True), []
    for n, width in [(1, 2), (8, 3), (20, 9), (31, 2)]:
        parts.append(lane.chunk(tokens[lane.head : lane.head + n], width))
    assert np.array_equal(np.concatenate(parts), alone)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_rows_of_8_bits_stay_near_those_of_float32(tools, sizes):
    """int8 activations must change the logits only a little. The error of a product's input is at
    most 1/254 of the largest input in its group."""
    made = Quantised(tools, sizes)
    exact, found = (logits_of(tools, made.decoder(activations=a)) for a in ("float32", "int8"))
    assert not np.array_equal(found, exact)
    assert np.abs(found - exact).mean() < 0.05 * np.abs(exact).mean()


def test_an_untied_head_has_a_format_of_its_own(tools):
    made = Quantised(tools, {"head_dim": 16})
    made.formats["lm_head.weight"] = FORMATS[1]
    rng = np.random.default_rng(3)
    made.levels["lm_head.weight"] = made.random_levels(rng, FORMATS[1], (67, 40))
    decoder = made.decoder(activations="int8")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert np.array_equal(decoder.row(name, 66), made.weights(name)[66])


def refused(match):
    return pytest.raises(_core.InvalidInputError, match=match)


@pytest.mark.parametrize(
    ("named", "match"),
    [
        ({"model.norm.weight": FORMATS[0]}, "names of matrices .* but got model.norm.weight"),
        ({"model.layers.9.mlp.up_proj.weight": FORMATS[0]}, "names of matrices of this decoder"),
    ],
)
def test_formats_of_what_is_no_matrix_are_refused(tools, named, match):
    config = _core.DecoderConfig(**tools.SIZES)
    with refused(match):
        _core.Decoder(config, formats={name: _core.Format(*given) for name, given in named.items()})
    with refused("formats: expected none for a tied lm_head.weight"):
        _core.Decoder(
            _core.DecoderConfig(**(tools.SIZES | {"tied": True})),
            formats={"lm_head.weight": _core.Format(*FORMATS[0])},
        )
    with refused("activations: expected float32 or int8 but got int4"):
        _core.Decoder(config, activations="int4")


def test_pieces_come_in_order_and_whole(tools):
    name = "model.layers.0.mlp.up_proj.weight"
    made = Quantised(tools, {})
    levels, scales, minimums = made.levels[name]
    named = {name: _core.Format(*made.formats[name])}
    decoder = _core.Decoder(_core.DecoderConfig(**made.sizes), formats=named)

    def load(part, first, to=name, columns=slice(None)):
        of_part = None if minimums is None else minimums[part]
        decoder.load_quantised(to, levels[part, columns], scales[part], of_part, first)

    with refused("first row of this piece .*: expected 0 but got 8"):
        load(slice(8, 16), 8)
    load(slice(0, 8), 0)
    with refused("first row of this piece .*: expected 8 but got 0"):
        load(slice(0, 8), 0)
    with refused("rows of this piece .*: expected a value from 1 to 64 but got 72"):
        load(slice(0, 72), 8)
    with refused("expected contiguous bytes"):
        load(slice(8, 16), 8, columns=slice(0, 39))
    with refused("expected row 8 of .* next but got all of it"):
        values = np.zeros(levels.shape, F32)
        decoder.load(name, "F32", values.shape, values.view(np.uint8))
    with refused("quantised rows of a tensor with such a format but got model.layers.0.mlp.gate"):
        decoder.load_quantised(
            "model.layers.0.mlp.gate_proj.weight", levels[:8], np.ones((8, 0), F32)
        )
    with refused("groups of scales of .* but got 0"):
        decoder.load_quantised(name, levels[8:], scales[8:, :0], None, 8)
    load(slice(8, 72), 8)
    with refused("each tensor once"):
        load(slice(0, 8), 72)
    with refused("is missing"):
        decoder.finish()


@pytest.mark.parametrize("activations", ["float32", "int8"])
@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_machines_with_fma_compute_the_same_logits(tools, storage, activations):
    """All instruction sets must give the same logits. The set `portable` is left out, because it
    has no fma and so rounds twice."""
    isas = [isa for isa in ISAS if isa != "portable"]
    found = [
        logits_of(tools, tools.random_decoder(isa=isa, storage=storage, activations=activations))
        for isa in isas
    ]
    for logits, isa in zip(found, isas, strict=True):
        assert np.array_equal(logits, found[0]), isa
