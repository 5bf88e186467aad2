"""EngineConfig and SpeculativeConfig, with vLLM's names. Unsupported values raise."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from . import check, methods
from ._core import MAX_SEATS, SLOTS, TARGET_ROWS, Capabilities, capabilities
from .cores import usable_cores
from .errors import InvalidInputError, not_built
from .sampling import MAX_SEED

MAX_THREADS = 1024
DEFAULT_SEATS = 8  # on a CPU, where a forward of 8 rows costs little more than one of 1
CPU_DTYPES = ("auto", "float32", "bfloat16", "int8", "int4")
ACTIVATION_DTYPES = ("auto", "float32", "int8")
BACKENDS = ("auto", "torch", "flash-attn", "triton")  # for prompts, on a CUDA device
MODES = ("exact", "fast")
CUDA_DTYPES = (*CPU_DTYPES, "float16")
MAX_POSITIONS = 2**31 - 1 - SLOTS  # a ring also holds the slots in flight

Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class SpeculativeConfig:
    """The draft and the method that uses it.

    method: a preset, `NAME[:key=value,...]` (None: auto; specbranch on a CUDA device).
    model: the draft, in the forms of EngineConfig.model.
    dtype: storage of the draft's weights, a value of EngineConfig.dtype (None: that one). No token
    depends on it.
    device: the draft's. With a target on a CUDA device it may be another one, for example cuda:1
    (None: the target's). The lanes then copy what they tell each other.
    num_speculative_tokens: gamma, the draft steps per burst (None: 4). It is an upper limit for
    auto.
    num_branches: k_max.
    confidence_threshold: epsilon. An adopted tail is cut before its first node with q <= epsilon.
    acceptance: with `coupled`, sampled tokens equal those of plain decoding with the same seed.
    With `rejection` they have the same distribution.
    hrad: the file of a classifier that decides how much of a tail to keep. Without
    num_speculative_tokens, gamma is the file's.
    Raises InvalidInputError.
    """

    method: str | None = None
    model: Folder | None = None
    dtype: str | None = None
    device: str | None = None
    num_speculative_tokens: int | None = None
    num_branches: int | None = None
    confidence_threshold: float = methods.EPSILON
    acceptance: str = "coupled"
    hrad: Folder | None = None
    synthetic_acceptance_rates: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.model is not None:
            folder("SpeculativeConfig.model", self.model)
        if self.dtype is not None:
            check.one_of("SpeculativeConfig.dtype", self.dtype, CUDA_DTYPES)
        if not (self.device is None or _is_cpu(self.device) or _is_cuda(self.device)):
            raise not_built(f"SpeculativeConfig.device {check.show(self.device)}")
        check.one_of("acceptance", self.acceptance, methods.ACCEPTANCE)
        if self.hrad is not None:
            folder("SpeculativeConfig.hrad", self.hrad)
        if self.synthetic_acceptance_rates is not None:
            raise not_built("SpeculativeConfig.synthetic_acceptance_rates")
        self.resolve()

    def resolve(self, default: str = methods.DEFAULT) -> methods.Method:
        """The method with every option set; `default` if none is named.

        Raises InvalidInputError on a field that the method does not use.
        """
        gamma = self.num_speculative_tokens
        method = methods.parse(
            default if self.method is None else self.method,
            gamma=gamma,
            k_max=self.num_branches,
            epsilon=self.confidence_threshold,
            hrad=methods.HRAD_OFF if self.hrad is None else os.fspath(self.hrad),
            acceptance=self.acceptance,
        )
        unused = {
            "num_speculative_tokens": gamma is not None and "gamma" not in method.options,
            "num_branches": self.num_branches is not None and "k_max" not in method.options,
            "confidence_threshold": self.confidence_threshold != methods.EPSILON
            and "epsilon" not in method.options,
            "hrad": self.hrad is not None and "hrad" not in method.options,
        }
        for name, is_unused in unused.items():
            if is_unused:
                raise InvalidInputError(
                    f"{name}: method {method.name} has no use for it, "
                    f"got {check.show(getattr(self, name))}"
                )
        return method


@dataclass(frozen=True)
class EngineConfig:
    """The settings that an engine is built from.

    model: the target, a Hugging Face folder, a GGUF file or a name on the hub (hub.py).
    tokenizer: one of these or a tokenizer.json (None: the target's).
    dtype: storage of the weights. auto: as in the files. int8 and int4 are made from matrices at
    loading. int8: 64 weights of an output share a scale. int4: 32 weights share a scale and a
    minimum, and the head is int8. On a CUDA device all other arithmetic, and K and V, are then
    bfloat16 if all other tensors of the files are, else float32.
    activation_dtype: the inputs of matrix products on a CPU. float32: products in float32
    arithmetic.
    int8: inputs are rounded to 8 bits, 32 of a row share a scale, and products are sums of
    integers. It needs a target of int8 or int4 weights; a draft of float weights stays at float32.
    auto: int8 with such weights, else float32. A CUDA device takes only auto: int8 with such
    weights, in the CPU's arithmetic, else the dtype.
    max_model_len: tokens of prompt and output together (None: the target's max_position_embeddings,
    stretched by its rope). It may be larger only if every layer of the target has a sliding window,
    as in Mistral: such a target has no end.
    max_num_seqs: sequences that share rounds, 1 to 64 (None: 8 on a CPU, 1 on a CUDA device). Each
    has a KV cache of max_model_len tokens in both lanes. A CPU commits only the memory that was
    reached, a device all of it.
    max_num_batched_tokens: tokens of a prompt and of running requests between two outputs, at least
    max_num_seqs (None: no limit). A prompt is fed in pieces of at most 64 in any case.
    enable_prefix_caching: a prompt reuses the longest beginning that a seat has, from an earlier or
    running request, and feeds only the rest (None: yes on a CPU, where no token depends on it).
    device: cpu (and auto), or cuda, cuda:1, ...: both lanes on that device, by torch and Triton.
    There dtype may be float16, too.
    attention_backend: for prompts on a CUDA device. torch: its flash attention. flash-attn: the
    package of that name. triton: the kernel of the rounds, 64 rows at a time. auto: torch, or
    triton where torch's flash attention does not work (float32, devices before sm_80) and with
    quantised weights.
    num_threads: the engine's total (None: the cores this process may use, by its affinity and by
    its container's CPU quota); draft_threads of them are the draft's while the lanes overlap.
    max_logprobs: the most that a request may ask of SamplingParams.logprobs and prompt_logprobs
    (-1: any number, and -1 for the whole vocabulary).
    enforce_eager: no CUDA graphs: the lanes' ops one by one, slower by far, to tell a fault of the
    graphs from one of the ops.
    mode: of a CUDA device. exact: every verification replays one graph, so no token depends on the
    method. fast: a verification takes the smallest of five graphs that holds its rows. Then an
    answer may differ from another method's where the target's best two logits are nearly tied.
    programmatic_launch: on a CUDA device from sm_90 on, kernels start before the one before them
    has ended, and prefetch weights. No token depends on it. Not measured yet, so it is off.
    nvtx: ranges for profilers, in the domain `sbrt`: a round, each graph in it, prefill. trace:
    CUDA devices time what lanes do, for Engine.trace and a request's times; the CPU always does.
    profile_dir: where Engine.start_profile writes, if it is given no file.
    Raises InvalidInputError.
    """

    model: Folder
    tokenizer: Folder | None = None
    dtype: str = "auto"
    activation_dtype: str = "auto"
    device: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enable_prefix_caching: bool | None = None
    seed: int = 0
    num_threads: int | None = None
    draft_threads: int | None = None
    attention_backend: str = "auto"
    skip_tokenizer_init: bool = False
    max_logprobs: int = 20
    enforce_eager: bool = False
    mode: str = "exact"
    programmatic_launch: bool = False
    nvtx: bool = False
    trace: bool = False
    profile_dir: Folder | None = None
    speculative: SpeculativeConfig | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        folder("model", self.model)
        if self.tokenizer is not None:
            folder("tokenizer", self.tokenizer)
        check.one_of("dtype", self.dtype, CUDA_DTYPES if self.on_cuda else CPU_DTYPES)
        check.one_of("activation_dtype", self.activation_dtype, ACTIVATION_DTYPES)
        if self.max_model_len is not None:
            check.integer("max_model_len", self.max_model_len, 1, MAX_POSITIONS)
        if self.max_num_seqs is None:
            object.__setattr__(self, "max_num_seqs", DEFAULT_SEATS if self.can.grows_lazily else 1)
        seats = check.integer("max_num_seqs", self.max_num_seqs, 1, MAX_SEATS)
        if self.enable_prefix_caching is None:
            object.__setattr__(self, "enable_prefix_caching", self.can.reuses_prefixes)
        check.flag("enable_prefix_caching", self.enable_prefix_caching)
        if self.max_num_batched_tokens is not None:
            check.integer("max_num_batched_tokens", self.max_num_batched_tokens, seats)
        check.integer("seed", self.seed, 0, MAX_SEED)
        if self.num_threads is not None:
            check.integer("num_threads", self.num_threads, 1, MAX_THREADS)
        if self.draft_threads is not None:
            check.integer("draft_threads", self.draft_threads, 1, MAX_THREADS)
        check.integer("max_logprobs", self.max_logprobs, -1, 2**30)
        for name in ("skip_tokenizer_init", "nvtx", "trace"):
            check.flag(name, getattr(self, name))
        if self.profile_dir is not None:
            folder("profile_dir", self.profile_dir)
        self._refuse_unsupported()
        if isinstance(self.speculative, Mapping):
            given = build(SpeculativeConfig, dict(self.speculative))
            object.__setattr__(self, "speculative", given)
        elif not isinstance(self.speculative, (SpeculativeConfig, type(None))):
            raise InvalidInputError(
                f"speculative: expected a SpeculativeConfig, got {check.show(self.speculative)}"
            )
        self.threads()
        known = CUDA_DTYPES if self.on_cuda else CPU_DTYPES
        check.one_of("SpeculativeConfig.dtype", self.draft_dtype, known)
        self._check_devices()

    def method(self) -> methods.Method:
        """The method of requests that name none: `none` without a draft."""
        if isinstance(self.speculative, SpeculativeConfig):
            default = methods.DEFAULT_ON_CUDA if self.on_cuda else methods.DEFAULT
            return self.speculative.resolve(default)
        return methods.parse("none")

    @property
    def draft_dtype(self) -> str:
        """Storage of the draft's weights."""
        given = self.speculative
        own = given.dtype if isinstance(given, SpeculativeConfig) else None
        return self.dtype if own is None else own

    def draft(self) -> Folder | None:
        """The draft's folder; None without a draft."""
        if isinstance(self.speculative, SpeculativeConfig):
            return self.speculative.model
        return None

    @property
    def on_cuda(self) -> bool:
        """True if both lanes run on a CUDA device."""
        return _is_cuda(self.device)

    @property
    def can(self) -> Capabilities:
        """The capabilities of the lanes' backend."""
        return capabilities("cuda" if self.on_cuda else "cpu")

    @property
    def device_index(self) -> int:
        """Number of the CUDA device; `cuda` means the first."""
        return _index(self.device)

    @property
    def draft_index(self) -> int:
        """Number of the CUDA device of the draft."""
        return self.device_index if self._draft_device is None else _index(self._draft_device)

    @property
    def is_apart(self) -> bool:
        """True if draft and target have devices of their own."""
        return self.on_cuda and self.draft() is not None and self.draft_index != self.device_index

    @property
    def _draft_device(self) -> str | None:
        """The CUDA device that SpeculativeConfig names, if any."""
        given = self.speculative
        named = given.device if isinstance(given, SpeculativeConfig) else None
        return named if _is_cuda(named) else None

    @property
    def seats(self) -> int:
        """Sequences that run at once."""
        assert self.max_num_seqs is not None  # filled in
        return self.max_num_seqs

    @property
    def piece(self) -> int:
        """Tokens of a prompt that may be fed between two rounds."""
        if self.max_num_batched_tokens is None:
            return TARGET_ROWS
        return min(TARGET_ROWS, self.max_num_batched_tokens - self.seats + 1)

    def threads(self) -> tuple[int, int]:
        """(num_threads, draft_threads) with the defaults filled in."""
        total = int(self.num_threads or usable_cores())
        draft = int(self.draft_threads or max(1, total // 4))
        # With one thread the lanes take turns. Otherwise the target keeps at least one thread.
        most = max(1, total - 1)
        if draft > most:
            raise InvalidInputError(
                f"draft_threads: expected at most {most} of {total} threads, got {draft}"
            )
        return total, draft

    def _check_devices(self) -> None:
        if self.on_cuda:
            self._check_on_cuda()
        elif self._draft_device is not None:
            raise InvalidInputError(
                f"SpeculativeConfig.device: expected cpu with a target on a CPU, "
                f"got {self._draft_device}"
            )

    def _check_on_cuda(self) -> None:
        given = self.speculative
        if isinstance(given, SpeculativeConfig) and given.device == "cpu":
            raise not_built("SpeculativeConfig.device 'cpu' with a target on cuda")
        if self.activation_dtype != "auto":
            raise InvalidInputError(
                f"activation_dtype: expected auto on {self.device}, where the dtype decides, "
                f"got {self.activation_dtype}"
            )

    def _refuse_unsupported(self) -> None:
        if not (_is_cpu(self.device) or _is_cuda(self.device)):
            raise not_built(f"device {check.show(self.device)}")
        if not self.can.reuses_prefixes and self.enable_prefix_caching:
            raise not_built(f"enable_prefix_caching on {self.device}")
        backend = check.one_of("attention_backend", self.attention_backend, BACKENDS)
        if not self.on_cuda and backend != "auto":
            raise InvalidInputError(f"attention_backend: expected auto on a CPU, got {backend}")
        if check.one_of("mode", self.mode, MODES) != "exact" and not self.on_cuda:
            raise InvalidInputError(f"mode: expected exact on a CPU, got {self.mode}")
        if check.flag("enforce_eager", self.enforce_eager) and not self.on_cuda:
            raise InvalidInputError(
                "enforce_eager: expected it with a CUDA device, got device "
                f"{self.device}, which has no graphs"
            )
        if check.flag("programmatic_launch", self.programmatic_launch) and not self.on_cuda:
            raise InvalidInputError(
                "programmatic_launch: expected it with a CUDA device, got device "
                f"{self.device}, which launches no kernels"
            )


def folder(name: str, value: Any) -> Path:
    """A path as a Path; not checked for existence."""
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise InvalidInputError(f"{name}: expected a path, got {check.show(value)}")
    return Path(path)


def _is_cpu(value: Any) -> bool:
    return isinstance(value, str) and value in ("auto", "cpu")


def _is_cuda(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"cuda(:\d{1,4})?", value) is not None


def _index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def build(kind: type, given: dict[str, Any]) -> Any:
    """`kind(**given)`. Raises InvalidInputError, naming the field, for one that `kind` does not
    have."""
    known = [f.name for f in fields(kind)]
    for name in given:
        if name not in known:
            raise InvalidInputError(
                f"{kind.__name__}: unknown field {check.show(name)}; it has {', '.join(known)}"
            )
    return kind(**given)
