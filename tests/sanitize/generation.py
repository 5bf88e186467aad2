"""Short generations on the cpu backend, to be run under a sanitizer: `generation.py [CANARY]`.

The program runs every method, greedy and sampled, with hits, misses and aborts. It also covers an
exception in a worker, two concurrent engines, and the demo pair. At the end it prints "fine". With
CANARY it runs only some of these, and then triggers the fault CANARY of csrc/exec/canary.h.
"""

import itertools
import sys
import threading

import pytest

from sbrt import Engine, EngineConfig, EngineError, SamplingParams, _core, _probe
from sbrt.methods import METHODS
from sbrt.model.demo_pair import demo_folder
from sbrt.serve.pair import Pair

PRESETS = (*METHODS, "specbranch:on_miss=serial", "hedge:on_miss=lookup", "hedge:on_miss=continue")
SHAPED = {
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.1,
    "logit_bias": {3: 1.0},
    "min_tokens": 5,
    "allowed_token_ids": list(range(1, 20)),
}
SAMPLINGS = (
    SamplingParams(temperature=0, max_tokens=24),
    SamplingParams(temperature=0.8, seed=3, top_p=0.9, max_tokens=24, **SHAPED),
)


# All methods but `auto`. An engine with `auto` first measures costs, and no forward may fail during
# this measurement.
FIXED = tuple(method for method in PRESETS if method != "auto")


def toy_engine(
    threads: int, methods: tuple[str, ...] = PRESETS, acceptance: str = "coupled", **fault: int
) -> Engine:
    target = _core.Toy(vocab=24, seed=5, **fault)
    pair = Pair(target, _core.Toy(24, 5, noise16=6), None, frozenset(), 24, "float32")
    config = EngineConfig(
        model="toy",
        skip_tokenizer_init=True,
        max_model_len=300,
        num_threads=threads,
        speculative={"model": "toy", "method": "specbranch", "acceptance": acceptance},
    )
    return Engine(config, pair=pair, methods=methods)


def check_same(
    engine: Engine, prompts: list, params: SamplingParams, methods: tuple[str, ...] = PRESETS
) -> None:
    plain = None
    for method in ("none", *methods):
        outputs = engine.generate(prompts, params, method=method)
        answers = [output.outputs[0].token_ids for output in outputs]
        plain = plain or answers
        assert answers == plain, method


def toys(threads: int) -> None:
    prompts = [[i * 5 % 24 for i in range(n)] for n in (1, 9, 150)]
    with toy_engine(threads) as engine:
        for params in SAMPLINGS:
            check_same(engine, prompts, params)
        for rounds in range(4):
            stream = engine.stream(prompts[1], SAMPLINGS[1])
            list(itertools.islice(stream, rounds))
            stream.close()
        check_same(engine, prompts, SAMPLINGS[0])
        engine.trace()
    with toy_engine(threads, acceptance="rejection") as engine:
        for method in PRESETS:
            outputs = engine.generate(prompts, SAMPLINGS[1], method=method)
            assert [len(output.outputs[0].token_ids) for output in outputs] == [24] * 3, method
    failing = toy_engine(threads, FIXED, throw_at=40)
    for _ in range(3):
        with pytest.raises(EngineError, match="position 40"):
            failing.generate([1] * 30, SAMPLINGS[0])
        assert len(failing.generate([1] * 9, SAMPLINGS[0])) == 1
    failing.add_request("left", [1, 2], SAMPLINGS[0])
    failing.step()
    failing.close()


def demo() -> None:
    methods = ("draft_model", "specbranch", "hedge")
    config = EngineConfig(
        model=demo_folder("target"),
        num_threads=2,
        draft_threads=1,
        max_model_len=256,
        speculative={"model": demo_folder("draft"), "method": "specbranch"},
    )
    with Engine(config, methods=methods) as engine:
        for params in SAMPLINGS:
            check_same(engine, ["def add(a, b):"], params, methods)


def main() -> None:
    if len(sys.argv) > 1:
        toys(2)
        _probe.canary(sys.argv[1])
        return
    for threads in (2, 3):
        toys(threads)
    both = [threading.Thread(target=toys, args=(2,)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    demo()
    print("fine")


main()
