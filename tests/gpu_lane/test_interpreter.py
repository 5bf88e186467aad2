"""Contract under test: the kernels themselves, in Triton's interpreter, give the tokens of their
twins: a short answer for every family, a prefill, a path and a branch among it."""

import pytest

from sbrt.triton_kernels.words import interpreting


@pytest.mark.skipif(not interpreting(), reason="kernels run on a device here")
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_a_short_answer(tools, checkpoints, family):
    found = []
    for ops in ("torch", "triton"):
        pair = checkpoints[family]
        play = tools.Play(*(tools.recorded(c, ops=ops) for c in pair), debug=False)
        found.append(play.answer(tools.prompt(30), "specbranch:k_max=3", 0.8, 4))
        counters = play.counters()
        play.close()
    assert found[0] == found[1]
    assert len(found[0][0]) == 4
    assert counters[1] > 0
