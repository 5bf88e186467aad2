"""Contract under test: in Triton's interpreter, the kernels give the same tokens as the functions
of plain torch that they replace. The test decodes a short answer with a chain and branches. Llama
has a prefill, Qwen3 has head norms. In int8, attention rounds its result. `make exact` runs the
other families. The interpreter supports only one thread, so both lanes run on the host's
thread."""

import pytest

from sbrt.triton_kernels.words import interpreting


@pytest.mark.skipif(not interpreting(), reason="kernels run on a device here")
@pytest.mark.usefixtures("fixed_sums")
@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        *(("Llama", "float32"), ("Qwen3", "float32"), ("Llama", "int8")),
        *(
            pytest.param(f, "float32", marks=pytest.mark.exact)
            for f in ("Mistral", "Qwen2", "Gemma3")
        ),
    ],
)
def test_a_short_answer(tools, tmp_path, family, dtype):
    small = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}
    small |= {"num_hidden_layers": 2} if family == "Gemma3" else {}  # a local and a global layer
    small |= {"head_dim": 32} if dtype == "int8" else {}
    pair = [tools.write(tmp_path / str(x), family, noise=x, **small) for x in (0.0, 0.03)]
    prompt = tools.prompt(5 if family == "Llama" else 1)
    found = []
    for ops in ("torch", "triton"):
        models = (tools.recorded(c, ops=ops, dtype=dtype) for c in pair)
        play = tools.Play(*models, debug=False, backend="sim")
        found.append(
            play.answer(prompt, "specbranch:k_max=2,gamma=2,epsilon=0,on_miss=serial", 0.8, 3)
        )
        counters = play.counters()
        play.close()
    assert found[0] == found[1]
    assert len(found[0][0]) == 3
    assert counters[1] > 0
