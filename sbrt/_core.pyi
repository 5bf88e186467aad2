"""Types of the binary module (csrc/bind has one file per class)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from numpy import float32, int32, uint8
from numpy.typing import NDArray

class EngineError(RuntimeError):
    """An error of the engine: one sentence."""

class InvalidInputError(EngineError, ValueError):
    """A bad argument: the thing, what was expected, what was given."""

class Model:
    """Weights of a model. Lanes of several cores may share them; nothing in them changes."""

    @property
    def vocab(self) -> int:
        """Logits per row."""
    @property
    def max_positions(self) -> int:
        """Longest sequence that the model was trained for, tokens."""
    @property
    def longest(self) -> int:
        """Longest sequence that it can follow; ENDLESS if all its layers have a window."""

class RopeScaling:
    """The scaling of rope (csrc/model/rope_table.h has the formulas).

    kind: default, linear, llama3 or yarn. Raises InvalidInputError on another one.
    divisors: head_dim / 2 numbers that divide the frequencies, or none.
    """

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
        divisors: Sequence[float] = (),
    ) -> None: ...

class Toy(Model):
    """A model whose logits are a hash of the prefix; csrc/model/toy.h has the formula.

    acceptance: makes it a calibrated draft of the toy with the same seed. With this probability its
    first choice is right; below 0: unused. noise16: noise in sixteenths. head_ids: the tokens that
    it has logits of, ascending; none: all. Raises InvalidInputError.
    """

    def __init__(
        self,
        vocab: int = 32,
        seed: int = 0,
        noise16: int = 0,
        max_positions: int = ...,
        window: int = 0,
        nan_at: int = -1,
        throw_at: int = -1,
        gate_at: int = -1,
        acceptance: float = -1.0,
        head_ids: Sequence[int] = ...,
    ) -> None: ...
    @property
    def waiting(self) -> bool:
        """True if a forward waits at the gate."""
    def open_gate(self) -> None:
        """Open the gate permanently."""

class DecoderConfig:
    """Sizes and switches of a decoder of the Llama or Gemma 3 family.

    window: positions a row sees in a local layer, itself included, 0 for all. head_norms: RMSNorm
    of q and k over head_dim, before rope. local: one bool per layer, True if it is local; empty:
    all layers use `rope`, and the window if there is one. local_theta, local_rope: rope of the
    local layers. The others are those of sbrt.model.config.ModelConfig. Raises InvalidInputError
    naming the field and its bounds.
    """

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
        local: list[bool] = ...,
        local_theta: float = 0.0,
        local_rope: RopeScaling = ...,
        query_scalar: float = 0.0,
        gelu: bool = False,
        post_norms: bool = False,
        norm_offset: bool = False,
        scaled_embedding: bool = False,
    ) -> None: ...

class Format:
    """The storage of a matrix: scale * (level - zero) (+ minimum), each step in float32.

    element: float32, bfloat16, int8 (signed levels) or int4 (levels 0 to 15). group: weights of an
    output that share a scale: 16 (only int8), 32, 64 or 128. scales: float16 or float32. minimums:
    none, float16 or float32. zero: 0, or 8 for int4 without minimums. Raises InvalidInputError.
    """

    def __init__(
        self,
        element: str,
        group: int = 0,
        scales: str = "float32",
        minimums: str = "none",
        zero: int = 0,
    ) -> None: ...

def quantise(
    format: Format, w: NDArray[float32]
) -> tuple[NDArray[uint8], NDArray[float32], NDArray[float32] | None]:
    """Levels, scales and minimums of w [rows, columns], rounded as a Decoder does when it loads.

    Raises InvalidInputError for a format of floats.
    """

class Decoder(Model):
    """A decoder on the CPU. Give every tensor to `load` or `load_quantised`, then call `finish`.

    storage: float32, bfloat16, int8 or int4, of all matrices that `formats` does not name. isa: a
    name of `instruction_sets()`, or auto for the best. activations: float32, or int8 for the
    products of int8 and int4 matrices. formats: by Hugging Face names. For a draft, head_ids are
    the target's ids that lm_head.weight has rows for, ascending, none for all. target: its
    embedding is shared, in the same memory, and so is its head if it is tied. Raises
    InvalidInputError.
    """

    def __init__(
        self,
        config: DecoderConfig,
        storage: str = "float32",
        isa: str = "auto",
        activations: str = "float32",
        formats: Mapping[str, Format] = ...,
        head_ids: Sequence[int] = ...,
        target: Decoder | None = None,
    ) -> None: ...
    def load(self, name: str, dtype: str, shape: Sequence[int], data: Any) -> None:
        """Pack a copy of one tensor under its Hugging Face name. The GIL is released.

        dtype: float32, bfloat16 or float16. shape: one or two sizes. data: a buffer of contiguous
        bytes. Raises InvalidInputError: an unknown name, another shape, too few or many bytes.
        """
    def load_quantised(
        self,
        name: str,
        levels: Any,
        scales: NDArray[float32],
        minimums: NDArray[float32] | None = None,
        first: int = 0,
    ) -> None:
        """Pack rows of a tensor that has a quantised format in `formats`. The GIL is released.

        levels: contiguous bytes [rows, columns], signed for int8, 0 to 15 for int4. scales and
        minimums: [rows, groups]. first: the row of the tensor at which they begin; pieces come in
        order. Raises InvalidInputError: a wrong name, shape or level, or a number that the format
        does not have.
        """
    def row(self, name: str, index: int) -> NDArray[float32]:
        """Row of a matrix in the values that the arithmetic uses, [columns]."""
    def finish(self) -> None:
        """End loading. Raises InvalidInputError naming a missing tensor."""
    @property
    def parameters(self) -> int:
        """Number of parameters; a tied embedding counts once."""
    @property
    def isa(self) -> str:
        """Instruction set in use."""

class RecordedModel(Model):
    """A model whose lanes replay what Python recorded (sbrt/gpu/lane.py).

    bind(**shape): records the graphs of one lane. It is called once per lane. head_ids: tokens that
    the lanes have logits of, ascending; none: all. _weights: sbrt.gpu keeps the model's here.
    """

    _weights: Any

    def __init__(
        self,
        *,
        vocab: int,
        max_positions: int,
        longest: int,
        bind: Callable[..., Any],
        head_ids: Sequence[int] = ...,
    ) -> None: ...

class Sampling:
    """The sampling parameters of one sequence; order and formulas are in csrc/ops/choose.h.

    temperature 0 is greedy. The noise is a function of (seed, completion, position, token). Without
    any field it samples the model's own distribution, with seed 0.
    """

    def __init__(self, **fields: float) -> None:
        """Raises InvalidInputError: a field that is not there. TypeError: of another type."""

    temperature: float
    min_p: float
    top_p: float
    top_k: int
    seed: int
    completion: int

class Shaping:
    """A request's changes to a row of logits before its temperature (csrc/ops/shaping.h).

    logit_bias: (token, bias) pairs. bad_words: each as its tokens. The defaults change nothing.
    """

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
    def active(self) -> bool:
        """True if it changes anything."""

class Policy:
    """The knobs of a round: the fields of csrc/state/policy.h, a keyword for each.

    Without any it is plain decoding. ranking: RANK_FIRST, RANK_ADAPTIVE or RANK_LIKELY. on_miss:
    GO_ON with an empty chain, begin the round with a serial BURST, or LOOKUP `burst` tokens. A
    serial method has no gamma, and a burst after every miss.
    """

    def __init__(self, **fields: float) -> None:
        """Raises InvalidInputError: a field that is not there. TypeError: of another type."""

    gamma: int
    branches: int
    ranking: int
    width: int
    nodes: int
    epsilon: float
    on_miss: int
    burst: int
    burst_width: int
    hrad: int
    lambda_: float
    theta: float
    rejection: int
    lookup: int
    @property
    def most_nodes(self) -> int:
        """Most nodes of a chain that it makes."""

class Hrad:
    """The classifier of csrc/round/hrad.h: float32 w1 [256, 5 hidden], b1 [256], w2 [64, 256], b2
    [64], w3 [3, 64], b3 [3]. Raises InvalidInputError on other sizes or a weight not finite."""

    def __init__(
        self,
        hidden: int,
        w1: NDArray[float32],
        b1: NDArray[float32],
        w2: NDArray[float32],
        b2: NDArray[float32],
        w3: NDArray[float32],
        b3: NDArray[float32],
    ) -> None: ...
    @property
    def hidden(self) -> int:
        """Hidden size of the target."""
    def logits(self, x: NDArray[float32]) -> list[float]:
        """Scores of "nothing is accepted", "some", "all" for features [5 hidden]."""
    def classify(self, x: NDArray[float32]) -> int:
        """The class with the largest score."""

class Costs:
    """Virtual time of forwards by rows, index = rows, ns; and other costs of a round."""

    def __init__(
        self,
        *,
        target: Sequence[int],
        draft: Sequence[int],
        target_overlapped: Sequence[int],
        draft_overlapped: Sequence[int],
        round_ns: int = 0,
        turns_ns: int = 0,
        side_by_side_ns: int = 0,
    ) -> None: ...
    @property
    def target(self) -> list[int]:
        """Cost of a target forward of 1 .. MAX_ROWS rows, alone."""
    @property
    def draft(self) -> list[int]:
        """Cost of a draft forward, alone."""
    @property
    def target_overlapped(self) -> list[int]:
        """Cost of a target forward while the draft works."""
    @property
    def draft_overlapped(self) -> list[int]:
        """Cost of a draft forward while the target works."""
    @property
    def round_ns(self) -> int:
        """The host's part, once a round."""
    @property
    def turns_ns(self) -> int:
        """Added to a round whose target waits for a burst before its forward."""
    @property
    def side_by_side_ns(self) -> int:
        """Added to a round with a burst during the target's forward."""

class Stats:
    """Counters of one sequence (csrc/decode/stats.h); times in ns.

    rounds: target forwards. rounds_ahead: enqueued before the previous round's record was read.
    draft_tokens: depth of the verified chains, summed. accepted: their accepted depth.
    rollback_tokens: the difference. branches: prepared ones. branch_rounds: rounds that had one and
    did not end the sequence. branch_hits: of these, with a hit.
    discarded_branch_tokens: drafted nodes that never entered a chain. draft_limit_rounds: past the
    draft's context limit. empty_residuals: rounds with an empty residual of the target's
    distribution (rejection). histogram: [64] rounds by accepted tokens.
    """

    rounds: int
    rounds_ahead: int
    draft_tokens: int
    accepted: int
    rollback_tokens: int
    branches: int
    branch_rounds: int
    branch_hits: int
    discarded_branch_tokens: int
    draft_limit_rounds: int
    empty_residuals: int
    reused: int  # tokens of the prompt whose KV was reused
    prefill_ns: int
    decode_ns: int
    histogram: list[int]

class Capabilities:
    """The capabilities of a backend (csrc/exec/backends.h)."""

    @property
    def name(self) -> str:
        """Name in messages: dry_cuda has the name cuda, dry the name sim."""
    @property
    def captures(self) -> bool:
        """Its ops are captured graphs and kernels, and it launches several as one."""
    @property
    def grows_lazily(self) -> bool:
        """Memory of a seat is committed when a sequence reaches it."""
    @property
    def reuses_prefixes(self) -> bool:
        """The host copies KV between seats."""

def capabilities(backend: str) -> Capabilities:
    """Capabilities of a backend (cpu, sim, dry, dry_cuda or cuda), even if it is not built."""

class OrderBook:
    """Ops of streams and the events between them (csrc/exec/order.h); stream 0 is the host."""

    def __init__(self) -> None: ...
    def stream(self, name: str) -> int:
        """The number of a new stream."""
    def event(self, name: str, initial: int = 0) -> int:
        """The number of a new event, which has reached `initial`."""
    def run(
        self,
        stream: int,
        name: str,
        reads: Sequence[str],
        writes: Sequence[str],
        seat: int | None = None,
    ) -> None:
        """Record an op of one seat, or of every seat. Raises InvalidInputError for an unknown
        stream, part or seat."""
    def wait(self, stream: int, event: int, value: int) -> None:
        """Later work on `stream` begins when `event` is at `value`."""
    def record(self, stream: int, event: int, value: int) -> None:
        """`event` is at `value` when all earlier work on `stream` is done."""
    def ops(self) -> list[tuple[object, ...]]:
        """(stream, what, reads, writes, seats), or (stream, "wait" or "record", event, value).

        seats: a bit for each.
        """
    def picks(self) -> list[tuple[str, str, int]]:
        """(stream, what, address) of the captured graphs that launches used, on dry_cuda."""
    def launches(self) -> list[tuple[str, str]]:
        """(stream, graph) of every launch, in order."""
    def __len__(self) -> int: ...
    def written_by(self, stream: int) -> list[str]:
        """Parts that ops of `stream` may write."""
    def conflicts(self, without: Sequence[str] = ..., host: bool = True) -> list[str]:
        """A sentence for each pair of ops that nothing orders.

        without: no stream waits for events of these names. host: waits of the host count, too.
        """

class Logprobs:
    """The log-probs that a request asks for.

    output, prompt: number of the most likely tokens at each position, in addition to the position's
    own token; -1: no log-probs.
    """

    def __init__(self, *, output: int = -1, prompt: int = -1) -> None: ...
    @property
    def output(self) -> int:
        """Number at the answer's positions."""
    @property
    def prompt(self) -> int:
        """Number at the prompt's positions."""

class Seat:
    """A place for a sequence, and the sequence's state (csrc/decode/engine.h)."""

    @property
    def number(self) -> int:
        """Number of the seat, from 0 on."""
    @property
    def finished(self) -> bool:
        """True if the sequence has ended or was dropped."""
    @property
    def finish_reason(self) -> str | None:
        """stop, length or error; None while it runs, or if it was dropped."""
    @property
    def stop_token(self) -> int | None:
        """The token that ended it, if finish_reason is stop."""
    @property
    def error(self) -> str | None:
        """The sentence, if finish_reason is error."""
    @property
    def stats(self) -> Stats:
        """A copy of the counters."""
    @property
    def prefilled_tokens(self) -> int:
        """Tokens of the prompt that both lanes have read; its last token is never fed."""
    @property
    def tuned(self) -> list[tuple[int, float]]:
        """(rounds, expected tokens per second) of each candidate policy."""
    def take(self) -> list[int]:
        """The tokens committed since the last `take`."""
    def take_logprobs(self) -> tuple[NDArray[int32], NDArray[int32], NDArray[float32]]:
        """(tokens, ranks, log-probs), each [tokens committed since the last call, 1 + top].

        At each position the token itself comes first, then the most likely ones, best first; -1 if
        there are fewer tokens. Empty for a sequence that does not ask.
        """
    def prompt_logprobs(self) -> tuple[NDArray[int32], NDArray[int32], NDArray[float32]]:
        """The same for the prompt's tokens after the first, once the sequence has a token."""
    def release(self) -> None:
        """Drop the sequence and free the seat. Does not wait."""
    def features(self) -> NDArray[float32]:
        """H-RAD's inputs of the last outcome, [5 hidden] (csrc/round/hrad.h).

        Raises InvalidInputError if features are not kept, and while a round is in flight.
        """
    def rounds(self) -> list[tuple[int, int, int, int, bool, int]]:
        """(round, depth, n, branches, hit, tokens), oldest first; of a long sequence the last
        4096."""

class RuntimeConfig:
    """The configuration of a core (csrc/decode/config.h); a field per keyword.

    max_model_len: tokens of prompt and output. draft_threads of num_threads are the draft's while
    the lanes overlap. vocab: number of the target's logits in use, 0 for all. backend: the backend.
    cpu; sim runs everything on the caller's thread; dry does the same and records it (`order`);
    dry_cuda does so in place of a device whose memory the host cannot access; or cuda.
    device: number of the CUDA device. draft_device: the draft's, which then has a memory of its
    own (-1: the target's). draft_first: the draft's stream is the more urgent one there.
    debug: poison memory that must not be read. rejection: memory for policies with that rule.
    max_num_seqs: sequences at once. max_piece: most tokens of a prompt between two rounds.
    reuses_prefixes: a prompt reuses KV that a seat has for its beginning.
    first_round: start of the 64-bit counters. tuned: candidates of `auto`, plain decoding first.
    With them the costs of forwards are measured for a quarter of a second when the core is made,
    unless `costs` or `tuning` has them.
    """

    max_model_len: int
    num_threads: int
    draft_threads: int
    max_gamma: int
    max_branches: int
    max_width: int
    backend: str
    debug: bool
    vocab: int
    first_round: int
    holes: Sequence[int]
    costs: Costs | None
    hrad: Hrad | None
    keep_features: bool
    rejection: bool
    tuned: Sequence[Policy]
    tuning: Costs | None
    device: int
    draft_device: int
    draft_first: bool
    nvtx: bool
    max_num_seqs: int
    max_piece: int
    reuses_prefixes: bool

    def __init__(self, **fields: Any) -> None:
        """Raises InvalidInputError for an unknown field, TypeError for a wrong type."""

class EngineCore:
    """Two lanes and their sequences (csrc/decode/engine.h).

    One thread at a time may call it, but for `interrupt`. Raises InvalidInputError for sizes that
    cannot be, and where cuda cannot be used.
    """

    @overload
    def __init__(self, target: Model, draft: Model | None, config: RuntimeConfig) -> None: ...
    @overload
    def __init__(self, target: Model, draft: Model | None, **fields: Any) -> None:
        """`fields`: those of a RuntimeConfig."""
    def prepare(self, policy: Policy) -> None:
        """Make beforehand what requests of such a policy launch on a device, each graph one launch.

        Drops the sequence in flight. Raises InvalidInputError.
        """

    @property
    def fused_graphs(self) -> int:
        """Made so far: of verifications and bursts, for a kind of request each; 64 are kept."""

    def begin(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        policy: Policy | None,
        max_tokens: int,
        stop_token_ids: Sequence[int] = ...,
        shaping: Shaping = ...,
        logprobs: Logprobs = ...,
    ) -> None:
        """Start a sequence in the first seat and drop all that is in flight.

        policy None: before every round one of `tuned` is chosen. Raises InvalidInputError: an empty
        or too long prompt, a token or a value out of range.
        """
    def admit(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        policy: Policy | None,
        max_tokens: int,
        stop_token_ids: Sequence[int] = ...,
        shaping: Shaping = ...,
        logprobs: Logprobs = ...,
    ) -> Seat:
        """Start a sequence as `begin` does, next to those in flight; the seat that it has until
        released.

        It may wait for the last round of the seat's former owner. Raises EngineError if no seat is
        free.
        """
    @property
    def has_free_seat(self) -> bool:
        """True if `admit` has a free seat."""
    @property
    def seats(self) -> int:
        """How many there are."""
    def seat(self, seat: int) -> Seat:
        """The seat of that number. Raises InvalidInputError if there is none."""
    def run(self, max_rounds: int = 0, seconds: float = 0.0) -> list[int]:
        """Run until a sequence ends, or N rounds or seconds (0: no limit), or `interrupt`.

        Returns the tokens of the first seat since the last call. The GIL is released. Raises
        EngineError: then all sequences have ended.
        The next round may already be in flight when this returns.
        """
    def advance(self, max_rounds: int = 0, seconds: float = 0.0) -> None:
        """As `run`, but the tokens stay for `Seat.take`: what interrupts the caller loses none."""
    def check_usable(self) -> None:
        """Raises EngineError once closed, and in a fork."""
    def idle(self, seconds: float = 0.0) -> bool:
        """Wait until the lanes do nothing (0: no limit); False if the time is over first."""
    def end(self) -> None:
        """Drop the sequence in flight, if there is one."""
    def close(self) -> None:
        """Join every thread, whatever still refers to the core; it cannot run any more."""
    def interrupt(self) -> None:
        """From any thread: `run` returns after the round it is in."""
    @property
    def order(self) -> OrderBook:
        """A copy of the dry backend's commands; InvalidInputError on another backend."""
    def trace(self, since_ns: int = 0) -> list[tuple[str, str, int, int, bool]]:
        """(stream, name, begin_ns, end_ns, is_wait) begun since then, oldest first per stream.

        Times are of the steady clock. The last 32,768 events of a stream are kept; on a device only
        those of its time between keep_trace(True) and keep_trace(False).
        """
    def keep_trace(self, is_on: bool) -> None:
        """A device times what its streams do from here on, or no more. Other backends always do.

        Waits for the last round; what was kept before is forgotten when it begins anew.
        """
    def profile(self, is_on: bool) -> None:
        """cudaProfilerStart, or Stop, on a device; nothing elsewhere."""
    def measure(self, seconds: float, temperature: float = 0.0) -> Costs:
        """The times of forwards on this machine, measured for about that long; drops the sequence.

        Raises InvalidInputError in virtual time.
        """
    @property
    def now_ns(self) -> int:
        """The clock that `trace` speaks of: steady, or virtual where there are costs."""

MAX_ROWS: int  # of the largest forward of either lane
TARGET_ROWS: int  # of the target's
MAX_SEATS: int  # sequences at once
SLOTS: int  # in flight, the root's included
MAX_CHAIN: int  # nodes after the root
RANK_FIRST: int  # Policy.ranking: the draft's first choices at the chain's end
RANK_ADAPTIVE: int  # as many of these as the draft is unsure
RANK_LIKELY: int  # the most likely of all outcomes
GO_ON: int  # Policy.on_miss: with an empty chain
BURST: int  # with a serial burst
LOOKUP: int  # with tokens that are looked up
MAX_BRANCHES: int  # of a round
MAX_TAIL: int  # slots of a branch
CANDIDATES: int  # tokens kept of a draft's distribution
ENDLESS: int  # no trunk is longer
FEATURE_LAYERS: int  # the last ones, whose outputs H-RAD reads
HRAD_TAIL: int  # nodes of a tail whose confidence it reads
HRAD_WIDTHS: tuple[int, int, int]  # outputs of its layers

def build_info() -> dict[str, str | bool]:
    """The build of this binary.

    version, compiler; cuda: True if it has the CUDA backend; cuda_version: of the CUDA compiler, ""
    for none; cuda_architectures; why_no_cuda: the reason why CUDA cannot be used on this machine, a
    sentence, "" if it can.
    """

class LogitReader:
    """Reads a model's logits along a text, without an engine.

    longest: most tokens of a text.
    """

    def __init__(self, model: Model, longest: int, threads: int) -> None: ...
    def forward(
        self, head: int, tokens: Sequence[int], logits: bool = True
    ) -> NDArray[float32] | None:
        """Feed up to 64 tokens that follow the first `head` ones. The GIL is released.

        Returns logits [tokens, columns], or None without logits. Raises InvalidInputError.
        """

def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling) -> list[float]:
    """[head_dim / 2] f32: rotation of each pair of a head from one position to the next."""

def allocation_count() -> int:
    """Calls of operator new by this library since it was loaded; a round makes none."""

def instruction_sets() -> list[str]:
    """Kernels that run on this machine, best first."""
