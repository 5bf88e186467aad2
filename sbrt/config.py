"""The configuration of an engine: EngineConfig and SpeculativeConfig, with vLLM's names.

Unsupported values raise InvalidInputError.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from . import check, methods
from ._core import MAX_SEATS, ON_HOST, SLOTS, TARGET_ROWS, Capabilities, capabilities
from .cores import check_count, check_teams, core_set, usable_cores
from .errors import InvalidInputError, not_built
from .sampling import MAX_SEED

MAX_THREADS = 1024
DEFAULT_SEATS = 8  # for a CPU: a forward of 8 rows costs little more than a forward of 1 row
CPU_DTYPES = ("auto", "float32", "bfloat16", "int8", "int4")
ACTIVATION_DTYPES = ("auto", "float32", "int8")
# Backends for the attention of prompts on a CUDA device.
BACKENDS = ("auto", "torch", "flash-attn", "triton")
MODES = ("exact", "fast")
CUDA_DTYPES = (*CPU_DTYPES, "float16")
MAX_POSITIONS = 2**31 - 1 - SLOTS  # a ring has SLOTS more positions, for uncommitted tokens

Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class SpeculativeConfig:
    """The draft and the method that uses it.

    method: a preset, `NAME[:key=value,...]` (None: auto; specbranch on a CUDA device).
    model: the draft, in one of the forms of EngineConfig.model.
    dtype: storage of the draft's weights, one of the values of EngineConfig.dtype (None: the dtype
    of the target's weights). No token depends on this setting.
    device: the draft's device (None: the target's device). If the target is on a CUDA device, the
    draft may be on another one, for example cuda:1, or on the CPU (cpu). The lanes then exchange
    copies of chains and outcomes.
    cpu_affinity: cores of the draft's threads on a CPU, in the form of EngineConfig.cpu_affinity.
    num_speculative_tokens: gamma, the draft steps per burst (None: 4). For auto it is an upper
    limit.
    num_branches: k_max, the maximum number of branches in a round.
    confidence_threshold: epsilon. After a hit, the branch's tail is cut before the first node whose
    draft probability q is at most epsilon.
    acceptance: with `coupled`, sampled tokens equal those of plain decoding with the same seed.
    With `rejection` sampled tokens only have the same distribution.
    hrad: the file of an H-RAD classifier, which decides how much of a tail is verified. Without
    num_speculative_tokens, the file sets gamma. Raises InvalidInputError on a bad value.
    """

    method: str | None = None
    model: Folder | None = None
    dtype: str | None = None
    device: str | None = None
    cpu_affinity: str | None = None
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
        core_set("SpeculativeConfig.cpu_affinity", self.cpu_affinity)
        check.one_of("acceptance", self.acceptance, methods.ACCEPTANCE)
        if self.hrad is not None:
            folder("SpeculativeConfig.hrad", self.hrad)
        if self.synthetic_acceptance_rates is not None:
            raise not_built("SpeculativeConfig.synthetic_acceptance_rates")
        self.resolve()

    def resolve(self, default: str = methods.DEFAULT) -> methods.Method:
        """Return the method with every option set. If this configuration names no method, `default`
        is used.

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

    model: the target: a Hugging Face folder, a GGUF file, or a name on the Hugging Face hub
    (hub.py).
    tokenizer: the model whose tokenizer is used, in one of the same forms, or a tokenizer.json file
    (None: the target).
    dtype: storage of the weights. auto: as in the files. int8 and int4: matrices are quantised when
    they are loaded. With int8, groups of 64 weights of a matrix row share a scale. With int4,
    groups of 32 weights share a scale and a minimum, and the LM head is int8. On a CUDA device with
    quantised weights, K, V and all other arithmetic are bfloat16 or float32. They are bfloat16 if
    all other tensors in the files are bfloat16.
    activation_dtype: dtype of the inputs of matrix products on a CPU. float32: products are
    computed in float32.
    int8: inputs are rounded to 8 bits, 32 inputs of a row share a scale, and products are sums of
    integers. The target must have int8 or int4 weights; a draft with float weights uses float32.
    auto: int8 with int8 or int4 weights, else float32. A CUDA device accepts only auto. There auto
    means int8 for quantised weights, as on the CPU, else `dtype`.
    max_model_len: maximum number of tokens of prompt and output together. None: the target's
    max_position_embeddings, extended by its rope scaling. A larger value needs a target in which
    every layer has a sliding window, as in Mistral. Such a target accepts sequences of any length.
    max_num_seqs: maximum number of sequences that share rounds, 1 to 64 (None: 8 on a CPU, 1 on a
    CUDA device). Each sequence has a KV cache of max_model_len tokens in both lanes. On a CPU only
    the memory that sequences have reached is committed; on a device all of it is allocated.
    max_num_batched_tokens: maximum number of tokens that are processed between two outputs. The
    tokens of a prompt and of running requests are added. The value is at least max_num_seqs (None:
    no limit). Prompts are always fed in pieces of at most 64 tokens.
    enable_prefix_caching: a prompt reuses the KV of its longest prefix that a seat holds from an
    earlier or running request. Only the rest of the prompt is fed. No token depends on this setting
    (None: True on a CPU, False on a CUDA device). With prefix caching, a CUDA device computes the
    attention of prompts with the kernel that rounds use (attention_backend triton). There a prompt
    reuses the KV of earlier prompts, but not of their answers.
    device: cpu (or auto, which means cpu), or cuda, cuda:1, ... Both lanes run on that device. A
    CUDA device needs torch and Triton, and there dtype may be float16, too.
    attention_backend: attention of prompts on a CUDA device. torch: torch's flash attention.
    flash-attn: the package of that name. triton: the kernel that rounds use, 64 rows at a time.
    auto: torch; triton with quantised weights, and where torch's flash attention does not work
    (float32, devices before sm_80).
    num_threads: total number of the engine's threads. None: the number of cores that this process
    may use, by its affinity and its container's CPU quota. draft_threads: the number of these
    threads that the draft uses while both lanes work. If the target is on a CUDA device, a draft on
    the CPU uses all these threads.
    cpu_affinity: on a CPU, the cores of the target's threads, for example "0-3,8". Each core gets
    one thread, which is pinned to it (None: threads are not pinned). A draft then needs other cores
    (SpeculativeConfig.cpu_affinity). Each lane keeps its own threads, and they write to the lane's
    memory first. So the cores of a lane should belong to one NUMA node.
    max_logprobs: largest value that a request may give for SamplingParams.logprobs and
    prompt_logprobs (-1: any number, also the whole vocabulary).
    enforce_eager: launch the lanes' ops one by one, without CUDA graphs. Without graphs the engine
    is far slower. The setting shows if a fault lies in the graphs or in the ops.
    mode: how a CUDA device verifies. exact: every verification replays the same graph, so no token
    depends on the method. fast: a verification replays the smallest of five graphs that holds its
    rows. Then an answer may differ from another method's where the target's best two logits are
    nearly tied.
    programmatic_launch: a kernel starts, and prefetches weights, before the previous kernel has
    ended. This needs sm_90 or later. No token depends on this setting. The default is False,
    because its effect has not been measured.
    nvtx: mark rounds, their graphs and prefill as NVTX ranges for profilers. The NVTX domain is
    `sbrt`.
    trace: a CUDA device times the lanes' work, for Engine.trace and the times of a request. A CPU
    always times it.
    profile_dir: the folder in which Engine.start_profile writes if it is given no file. Raises
    InvalidInputError on a bad value.
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
    cpu_affinity: str | None = None
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
        if isinstance(self.speculative, Mapping):
            given = build(SpeculativeConfig, dict(self.speculative))
            object.__setattr__(self, "speculative", given)
        elif not isinstance(self.speculative, (SpeculativeConfig, type(None))):
            raise InvalidInputError(
                f"speculative: expected a SpeculativeConfig, got {check.show(self.speculative)}"
            )
        check.one_of("dtype", self.dtype, CUDA_DTYPES if self.on_cuda else CPU_DTYPES)
        check.one_of("activation_dtype", self.activation_dtype, ACTIVATION_DTYPES)
        if self.max_model_len is not None:
            check.integer("max_model_len", self.max_model_len, 1, MAX_POSITIONS)
        if self.max_num_seqs is None:
            object.__setattr__(self, "max_num_seqs", DEFAULT_SEATS if self.can.grows_lazily else 1)
        seats = check.integer("max_num_seqs", self.max_num_seqs, 1, MAX_SEATS)
        self._check_devices()
        if self.enable_prefix_caching is None:
            object.__setattr__(self, "enable_prefix_caching", not self.on_cuda)
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
        self.threads()
        known = CPU_DTYPES if self.drafts_on_cpu else CUDA_DTYPES
        check.one_of("SpeculativeConfig.dtype", self.draft_dtype, known)

    def method(self) -> methods.Method:
        """The method of requests that name no method. Without a draft it is plain decoding."""
        if isinstance(self.speculative, SpeculativeConfig):
            is_plain = not (self.on_cuda or self.is_apart)
            default = methods.DEFAULT if is_plain else methods.DEFAULT_ON_CUDA
            return self.speculative.resolve(default)
        return methods.parse("none")

    @property
    def draft_dtype(self) -> str:
        """Storage of the draft's weights, one of the values of `dtype`."""
        given = self.speculative
        own = given.dtype if isinstance(given, SpeculativeConfig) else None
        return self.dtype if own is None else own

    def draft(self) -> Folder | None:
        """The draft's folder or file; None without a draft."""
        if isinstance(self.speculative, SpeculativeConfig):
            return self.speculative.model
        return None

    @property
    def on_cuda(self) -> bool:
        """True if the target runs on a CUDA device."""
        return _is_cuda(self.device)

    @property
    def drafts_on_cpu(self) -> bool:
        """True if a draft runs on the CPU."""
        given = self.speculative
        named = given.device if isinstance(given, SpeculativeConfig) else None
        return not self.on_cuda or named == "cpu"

    @property
    def can(self) -> Capabilities:
        """The capabilities of the lanes' backend."""
        return capabilities("cuda" if self.on_cuda else "cpu")

    @property
    def device_index(self) -> int:
        """Index of the target's CUDA device; `cuda` means the first."""
        return _index(self.device)

    @property
    def draft_index(self) -> int:
        """Index of the draft's CUDA device; ON_HOST for a draft on the CPU."""
        if self.drafts_on_cpu:
            return ON_HOST
        return self.device_index if self._draft_device is None else _index(self._draft_device)

    @property
    def is_apart(self) -> bool:
        """True if draft and target each have their own memory."""
        has_own = self.draft_index != self.device_index if self.on_cuda else any(self.cores())
        return self.draft() is not None and has_own

    @property
    def _draft_device(self) -> str | None:
        """The CUDA device that SpeculativeConfig names, if any."""
        given = self.speculative
        named = given.device if isinstance(given, SpeculativeConfig) else None
        return named if _is_cuda(named) else None

    @property
    def seats(self) -> int:
        """Maximum number of sequences that run together."""
        assert self.max_num_seqs is not None  # __post_init__ has set it
        return self.max_num_seqs

    @property
    def piece(self) -> int:
        """Maximum number of prompt tokens that are fed between two rounds."""
        if self.max_num_batched_tokens is None:
            return TARGET_ROWS
        return min(TARGET_ROWS, self.max_num_batched_tokens - self.seats + 1)

    def cores(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The cores that the target's threads and the draft's threads are pinned to; () if they are
        not pinned."""
        given = self.speculative
        own = given.cpu_affinity if isinstance(given, SpeculativeConfig) else None
        return (
            core_set("cpu_affinity", self.cpu_affinity),
            core_set("SpeculativeConfig.cpu_affinity", own),
        )

    def threads(self) -> tuple[int, int]:
        """Return (num_threads, draft_threads) with the defaults filled in."""
        target_cores, draft_cores = self.cores()
        if target_cores or draft_cores:
            return len(target_cores) + len(draft_cores), len(draft_cores) or 1
        total = int(self.num_threads or usable_cores())
        if self.on_cuda and self.drafts_on_cpu:  # the target needs no CPU threads
            default = most = total
        else:
            # With one thread the lanes take turns. Otherwise the target keeps at least one thread.
            default, most = max(1, total // 4), max(1, total - 1)
        draft = int(self.draft_threads or default)
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
        self._check_cores()

    def _check_cores(self) -> None:
        target, draft = self.cores()
        name, has_draft = "SpeculativeConfig.cpu_affinity", self.draft() is not None
        if target and self.on_cuda:
            raise InvalidInputError(
                f"cpu_affinity: expected none with a target on {self.device}, "
                f"got {self.cpu_affinity}"
            )
        if draft and not self.drafts_on_cpu:
            raise InvalidInputError(f"{name}: expected none with a draft on {self.device}")
        if draft and not has_draft:
            raise InvalidInputError(f"{name}: expected a draft model next to it, got none")
        if has_draft and not self.on_cuda and bool(target) != bool(draft):
            missing = name if target else "cpu_affinity"
            raise InvalidInputError(f"{missing}: expected cores for both lanes or for none")
        check_teams(name, target, draft)
        if target or draft:
            check_count("num_threads", len(target) + len(draft), self.num_threads)
            check_count("draft_threads", len(draft), self.draft_threads)

    def _check_on_cuda(self) -> None:
        if self.activation_dtype != "auto":
            raise InvalidInputError(
                f"activation_dtype: expected auto on {self.device}, where the dtype decides, "
                f"got {self.activation_dtype}"
            )

    def _refuse_unsupported(self) -> None:
        if not (_is_cpu(self.device) or _is_cuda(self.device)):
            raise not_built(f"device {check.show(self.device)}")
        backend = check.one_of("attention_backend", self.attention_backend, BACKENDS)
        if self.on_cuda and self.enable_prefix_caching and backend not in ("auto", "triton"):
            raise InvalidInputError(
                "attention_backend: expected auto or triton with enable_prefix_caching on "
                f"{self.device}, got {backend}"
            )
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
    """Return a path as a Path. The path need not exist. Raises InvalidInputError if it is no
    path."""
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
    """Return `kind(**given)`. If `given` has a name that is no field of `kind`, raises
    InvalidInputError with that name."""
    known = [f.name for f in fields(kind)]
    for name in given:
        if name not in known:
            raise InvalidInputError(
                f"{kind.__name__}: unknown field {check.show(name)}; it has {', '.join(known)}"
            )
    return kind(**given)
