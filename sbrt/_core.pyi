"""Types of the binary module (csrc/bind has one file per class)."""

from collections.abc import Sequence
from typing import Any

class EngineError(RuntimeError): ...
class InvalidInputError(EngineError, ValueError): ...

class Model:
    @property
    def vocab(self) -> int: ...
    @property
    def max_positions(self) -> int: ...

class RopeScaling:
    def __init__(
        self,
        *,
        kind: str = "default",
        factor: float = 1.0,
        original_max: float = 1.0,
        low_freq: float = 1.0,
        high_freq: float = 4.0,
        beta_fast: float = 32.0,
        beta_slow: float = 1.0,
        attention_factor: float = 1.0,
        truncate: bool = True,
    ) -> None: ...

class DecoderConfig:
    def __init__(
        self,
        *,
        hidden: int,
        inner: int,
        layers: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        vocab: int,
        max_positions: int,
        rms_eps: float,
        rope_theta: float,
        tied: bool,
        window: int = 0,
        qkv_bias: bool = False,
        o_bias: bool = False,
        mlp_bias: bool = False,
        head_norms: bool = False,
        rope: RopeScaling = ...,
    ) -> None: ...

class Decoder(Model):
    def __init__(
        self, config: DecoderConfig, storage: str = "float32", isa: str = "auto"
    ) -> None: ...
    def load(self, name: str, dtype: str, shape: Sequence[int], data: Any) -> None: ...
    def finish(self) -> None: ...
    @property
    def parameters(self) -> int: ...
    @property
    def isa(self) -> str: ...

class Sampling:
    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int = 0,
        completion: int = 0,
    ) -> None: ...

class Shaping:
    def __init__(
        self,
        *,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        min_tokens: int = 0,
        logit_bias: Sequence[tuple[int, float]] = ...,
        allowed_token_ids: Sequence[int] | None = None,
        bad_words: Sequence[Sequence[int]] = ...,
    ) -> None: ...
    @property
    def active(self) -> bool: ...

class Policy:
    def __init__(
        self,
        gamma: int,
        branches: int = 0,
        adaptive: int = 0,
        epsilon: float = 0.0,
        serial: int = 0,
    ) -> None: ...
    @property
    def gamma(self) -> int: ...
    @property
    def branches(self) -> int: ...
    @property
    def adaptive(self) -> int: ...
    @property
    def epsilon(self) -> float: ...
    @property
    def serial(self) -> int: ...

class Stats:
    rounds: int
    draft_tokens: int
    accepted: int
    rollback_tokens: int
    branches: int
    branch_rounds: int
    branch_hits: int
    discarded_branch_tokens: int
    draft_limit_rounds: int
    prefill_ns: int
    decode_ns: int
    histogram: list[int]

class Runtime:
    def __init__(
        self,
        target: Model,
        draft: Model | None,
        *,
        max_model_len: int,
        num_threads: int = 1,
        draft_threads: int = 1,
        max_gamma: int = 4,
        max_branches: int = 8,
        body: str = "cpu",
        debug: bool = False,
        vocab: int = 0,
        first_round: int = 1,
    ) -> None: ...
    def begin(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        policy: Policy,
        max_tokens: int,
        stop_token_ids: Sequence[int] = ...,
        shaping: Shaping = ...,
    ) -> None: ...
    def run(self, max_rounds: int = 0, seconds: float = 0.0) -> list[int]: ...
    def idle(self, seconds: float = 0.0) -> bool: ...
    def end(self) -> None: ...
    def close(self) -> None: ...
    def interrupt(self) -> None: ...
    def trace(self, since_ns: int = 0) -> list[tuple[str, str, int, int, bool]]: ...
    @property
    def finished(self) -> bool: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def stop_token(self) -> int | None: ...
    @property
    def error(self) -> str | None: ...
    @property
    def stats(self) -> Stats: ...

def build_info() -> dict[str, str | bool]: ...
def allocation_count() -> int: ...
