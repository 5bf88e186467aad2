"""Types of the binary module (csrc/bind has one file per class)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from numpy import float32, int32, uint8
from numpy.typing import NDArray

class EngineError(RuntimeError):
    """An error of the engine. Its message is one sentence."""

class InvalidInputError(EngineError, ValueError):
    """A bad argument. The message names the thing, what was expected and what was given."""

class Model:
    """Weights of a model. They never change, so the lanes of several EngineCores may share them."""

    @property
    def vocab(self) -> int:
        """Number of logits in a row."""
    @property
    def max_positions(self) -> int:
        """Longest sequence that the model was trained for, tokens."""
    @property
    def longest(self) -> int:
        """Longest sequence that the model can follow, tokens; ENDLESS if all its layers have a
        window."""

class RopeScaling:
    """The scaling of rope (csrc/model/rope_table.h has the formulas).

    kind: default, linear, llama3 or yarn. Raises InvalidInputError on another one.
    divisors: head_dim / 2 numbers by which the frequencies are divided, or none.
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

    acceptance: makes the model a calibrated draft of the toy with the same seed. With this
    probability the draft has the same most likely token as that toy; below 0: unused. noise16:
    noise that makes it a worse draft, in sixteenths. head_ids: the tokens that have logits,
    ascending; none: all. nan_at, throw_at, gate_at: the position of a row that gets a NaN, throws,
    or waits for `open_gate`. Raises InvalidInputError.
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
        """True if a forward waits for `open_gate`."""
    def open_gate(self) -> None:
        """Let every forward pass that waits for the gate, now and later."""

class DecoderConfig:
    """Sizes and switches of a decoder of the Llama or Gemma 3 family.

    window: number of positions that a row sees in a local layer, its own included; 0: all.
    head_norms: q and k pass an RMSNorm over head_dim before rope. local: one bool per layer, True
    for a local layer; empty: all layers use `rope`, and the window if there is one. local_theta,
    local_rope: rope of the local layers. sbrt.model.config.ModelConfig describes the other fields.
    Raises InvalidInputError naming the field and its bounds.
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
    """The storage of a matrix. A weight is scale * (level - zero) (+ minimum), each step in
    float32.

    element: float32, bfloat16, int8 (signed levels) or int4 (levels 0 to 15). group: number of
    consecutive weights of an output that share a scale, namely 16 (only int8), 32, 64 or 128.
    scales: float16 or float32. minimums: none, float16 or float32. zero: 0, or 8 for int4 without
    minimums. Raises InvalidInputError.
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
    """Return the levels, scales and minimums of w [rows, columns], rounded as in `Decoder.load`.

    Raises InvalidInputError for a format of floats.
    """

class Decoder(Model):
    """A decoder on the CPU. Give every tensor to `load` or `load_quantised`, then call `finish`.

    storage: float32, bfloat16, int8 or int4, for all matrices that `formats` does not name. isa: a
    name of `instruction_sets()`, or auto for the best. activations: the inputs of products with
    int8 and int4 matrices, float32 or int8. formats: the format of a matrix by its Hugging Face
    name. head_ids: for a draft whose lm_head.weight has rows for some of the target's ids only,
    these ids, ascending; none: all. target: this draft uses the target's embedding in place, and
    its head if that is tied. Raises InvalidInputError.
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
        bytes. Raises InvalidInputError on an unknown name, another shape, or too few or many bytes.
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
        minimums: [rows, groups]. first: the row of the tensor at which this piece begins; a
        tensor's pieces must come in order. Raises InvalidInputError on a wrong name, shape or
        level, or a number that the format cannot hold.
        """
    def row(self, name: str, index: int) -> NDArray[float32]:
        """Return row `index` of a matrix as the arithmetic reads it, [columns]."""
    def finish(self) -> None:
        """End loading. Raises InvalidInputError naming a tensor that was not loaded."""
    @property
    def parameters(self) -> int:
        """Number of parameters; a tied embedding counts once."""
    @property
    def isa(self) -> str:
        """Instruction set in use."""

class RecordedModel(Model):
    """A model whose lanes replay graphs that Python recorded (sbrt/gpu/lane.py).

    bind(**shape): records the graphs of one lane. It is called once per lane. head_ids: the tokens
    that have logits, ascending; none: all. _weights: sbrt.gpu keeps the model's weights here.
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
    fields, tokens are sampled from the model's own distribution, with seed 0.
    """

    def __init__(self, **fields: float) -> None:
        """Raises InvalidInputError for an unknown field, TypeError for a value of another type."""

    temperature: float
    min_p: float
    top_p: float
    top_k: int
    seed: int
    completion: int

class Shaping:
    """A request's changes to a row of logits before its temperature (csrc/ops/shaping.h).

    logit_bias: (token, bias) pairs. bad_words: the tokens of each word. The defaults change
    nothing.
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
        """True if this shaping changes any logit."""

class Policy:
    """The knobs of a round. csrc/state/policy.h describes its fields; each has a keyword.

    Without keywords it is plain decoding. ranking: RANK_FIRST, RANK_ADAPTIVE or RANK_LIKELY.
    on_miss, how a round after a miss begins: GO_ON (with an empty chain), BURST (with a serial
    burst) or LOOKUP (with `burst` tokens from a look-up). In a serial method gamma is 0, and every
    round begins with a burst.
    """

    def __init__(self, **fields: float) -> None:
        """Raises InvalidInputError for an unknown field, TypeError for a value of another type."""

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
        """Number of nodes of the largest chain under this policy."""

class Hrad:
    """The H-RAD classifier of csrc/round/hrad.h, with inputs = 5 hidden + 2 HRAD_TAIL.

    The weights are float32: w1 [256, inputs], b1 [256], w2 [64, 256], b2 [64], w3 [3, 64], b3 [3].
    Raises InvalidInputError on other sizes or a weight that is not finite.
    """

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
        """Scores of the classes "nothing is accepted", "some", "all" for features [inputs]."""
    def classify(self, x: NDArray[float32]) -> int:
        """Return the index of the class with the largest score."""

class Costs:
    """Costs of a round in ns: of forwards by number of rows, and others.

    Entry i of a list is the cost of a forward of i + 1 rows.
    """

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
        """Cost of a target forward in a round whose lanes take turns, ns by rows."""
    @property
    def draft(self) -> list[int]:
        """Cost of a draft forward in a round whose lanes take turns, ns by rows."""
    @property
    def target_overlapped(self) -> list[int]:
        """Cost of a target forward in a round whose lanes overlap, ns by rows."""
    @property
    def draft_overlapped(self) -> list[int]:
        """Cost of a draft forward in a round whose lanes overlap, ns by rows."""
    @property
    def round_ns(self) -> int:
        """Time of the host that is added to every round, ns."""
    @property
    def turns_ns(self) -> int:
        """Time added to a round whose target waits for a burst before its forward, ns."""
    @property
    def side_by_side_ns(self) -> int:
        """Time added to a round in which a burst runs during the target's forward, ns."""

class Stats:
    """Counters of one sequence (csrc/decode/stats.h); times in ns.

    rounds: number of target forwards. rounds_ahead: number of rounds enqueued before the previous
    round's record was read. draft_tokens: sum of the depths of the verified chains. accepted: sum
    of their accepted depths. rollback_tokens: draft_tokens - accepted. branches: number of prepared
    branches. branch_rounds: number of rounds with a branch that did not end the sequence.
    branch_hits: number of those that had a hit. discarded_branch_tokens: number of drafted nodes
    that never entered a chain. draft_limit_rounds: number of rounds past the draft's context limit.
    empty_residuals: number of rounds in which the rule `rejection` found no probability left in the
    residual. histogram: [64], entry n is the number of rounds with n accepted tokens.
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
    reused: int  # number of prompt tokens whose KV was reused
    prefill_ns: int
    decode_ns: int
    histogram: list[int]

class Capabilities:
    """The capabilities of a backend (csrc/exec/backends.h)."""

    @property
    def name(self) -> str:
        """Name of the backend in messages. The name of dry_cuda is cuda, the name of dry is sim."""
    @property
    def captures(self) -> bool:
        """True if the backend's ops are captured graphs and kernels, several of them in one
        launch."""
    @property
    def grows_lazily(self) -> bool:
        """True if the memory of a seat is committed only when a sequence reaches it."""
    @property
    def rounds_match_prompts(self) -> bool:
        """True if a token has the same KV whether a round or a prompt's piece fed it."""

def capabilities(backend: str) -> Capabilities:
    """Return what a backend can do. It need not be built: cpu, sim, dry, dry_cuda or cuda."""

class OrderBook:
    """A record of the ops of streams, and of the events between them (csrc/exec/order.h).

    It finds ops that may run at the same time and access the same memory. Stream 0 is the host.
    """

    def __init__(self) -> None: ...
    def stream(self, name: str) -> int:
        """Add a stream; returns its number."""
    def event(self, name: str, initial: int = 0) -> int:
        """Add an event whose value is `initial`; returns its number."""
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
        """(stream, op, reads, writes, seats) of each op, (stream, "wait" or "record", event, value)
        of each other command.

        seats: a mask with one bit per seat.
        """
    def picks(self) -> list[tuple[str, str, int]]:
        """(stream, op, address of its captured graph) of every captured op, on dry_cuda."""
    def launches(self) -> list[tuple[str, str]]:
        """(stream, graph) of every launch, in order."""
    def __len__(self) -> int: ...
    def written_by(self, stream: int) -> list[str]:
        """Parts of the state that ops of `stream` may write."""
    def conflicts(self, without: Sequence[str] = ..., host: bool = True) -> list[str]:
        """Return a sentence for each pair of conflicting ops that nothing orders.

        without: events of these names are treated as if no stream waited for them. host: count the
        waits of the host, too.
        """

class Logprobs:
    """The log-probs that a request wants.

    output, prompt: the number of most likely tokens that get a log-prob at each position of the
    answer and of the prompt. The position's own token always gets one. -1: no log-probs.
    """

    def __init__(self, *, output: int = -1, prompt: int = -1) -> None: ...
    @property
    def output(self) -> int:
        """Number of most likely tokens at a position of the answer."""
    @property
    def prompt(self) -> int:
        """Number of most likely tokens at a position of the prompt."""

class Seat:
    """A place for a sequence, and the sequence's state (csrc/decode/engine.h)."""

    @property
    def number(self) -> int:
        """Index of the seat; the first is 0."""
    @property
    def finished(self) -> bool:
        """True if the sequence has ended or was dropped."""
    @property
    def finish_reason(self) -> str | None:
        """stop, length or error; None while the sequence runs, or if it was dropped."""
    @property
    def stop_token(self) -> int | None:
        """The token that ended the sequence, if finish_reason is stop."""
    @property
    def error(self) -> str | None:
        """The error's sentence, if finish_reason is error."""
    @property
    def stats(self) -> Stats:
        """A copy of the sequence's counters."""
    @property
    def prefilled_tokens(self) -> int:
        """Number of prompt tokens that both lanes have read. The prompt's last token is never among
        them: it is the first root."""
    @property
    def tuned(self) -> list[tuple[int, float]]:
        """(rounds that used it, expected tokens per second) of each candidate policy of `auto`."""
    def take(self) -> list[int]:
        """Return the tokens committed since the last `take`."""
    def take_logprobs(self) -> tuple[NDArray[int32], NDArray[int32], NDArray[float32]]:
        """Return (tokens, ranks, log-probs), each [tokens committed since the last call, 1 + top].

        At each position the token itself comes first, then the most likely ones, best first. If
        fewer than `top` tokens exist, the rest are -1. The arrays are empty if the request wants no
        log-probs.
        """
    def prompt_logprobs(self) -> tuple[NDArray[int32], NDArray[int32], NDArray[float32]]:
        """As `take_logprobs`, for the prompt's tokens after the first. Call it once the sequence
        has a token."""
    def release(self) -> None:
        """Drop the sequence and free the seat. Does not wait."""
    def features(self) -> NDArray[float32]:
        """H-RAD's inputs at the last outcome, [5 hidden + 2 HRAD_TAIL] (csrc/round/hrad.h).

        Raises InvalidInputError if the core keeps no features, and while a round is in flight.
        """
    def rounds(self) -> list[tuple[int, int, int, int, bool, int]]:
        """(round, depth, n, branches, hit, tokens) of the last 4096 rounds, oldest first.

        depth: the chain's depth. n: the accepted depth. branches: the number prepared. tokens: the
        number committed.
        """

class RuntimeConfig:
    """The configuration of a core (csrc/decode/config.h), with a keyword for each field.

    max_model_len: maximum number of tokens of prompt and output together. draft_threads: the number
    of the num_threads threads that the draft uses while the lanes overlap. vocab: number of the
    target's logits in use; 0: all. holes: ids below vocab that no token has. backend: cpu; sim runs
    everything on the caller's thread; dry does the same and records it (`order`); dry_cuda does so,
    too, and imitates a device whose memory the host cannot access; or cuda.
    device: index of the CUDA device. draft_device: index of the draft's device; its lane then has a
    state of its own (-1: the target's device; ON_HOST: the CPU). target_cores, draft_cores: one
    core for each thread of a lane on the CPU, which is pinned to it (none: threads are not pinned).
    draft_first: on a device the draft's stream has the
    higher priority. debug: fill memory that must not be read with NaN. rejection: allocate the
    memory that the rule `rejection` needs. max_num_seqs: number of seats. max_piece: maximum number
    of prompt tokens fed between two rounds. reuses_prefixes: a prompt reuses the KV of its
    beginning if a seat has it. first_round: the number of the first round; tests start it high.
    costs: run in virtual time with these costs, on sim. tuned: candidates of `auto`, plain decoding
    first. tuning: costs by which `auto` chooses. Without both `costs` and `tuning`, a core with
    candidates measures the costs of forwards for a quarter of a second when it is made.
    """

    max_model_len: int
    num_threads: int
    draft_threads: int
    target_cores: Sequence[int]
    draft_cores: Sequence[int]
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

    One thread at a time may call it. Only `interrupt` may be called from any thread. Raises
    InvalidInputError for impossible sizes, and for cuda if it cannot be used.
    """

    @overload
    def __init__(self, target: Model, draft: Model | None, config: RuntimeConfig) -> None: ...
    @overload
    def __init__(self, target: Model, draft: Model | None, **fields: Any) -> None:
        """Make a core from the fields of a RuntimeConfig."""
    def prepare(self, policy: Policy) -> None:
        """On a device, make the fused graphs of requests with this policy in advance.

        A fused graph is one launch. Drops all sequences in flight. Raises InvalidInputError.
        """

    @property
    def fused_graphs(self) -> int:
        """Number of fused graphs that are kept, at most 64. Each is a verification or a burst for
        one kind of request."""

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
        """Drop everything in flight, then start a sequence in the first seat.

        policy None: before every round one of `tuned` is chosen. Raises InvalidInputError on an
        empty or too long prompt, or a token or value out of range.
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
        """Start a sequence as `begin` does, next to those in flight; returns its seat. The sequence
        keeps the seat until `Seat.release`.

        The call may wait for the last round of the seat's previous sequence. Raises EngineError if
        no seat is free.
        """
    @property
    def has_free_seat(self) -> bool:
        """True if `admit` has a free seat."""
    @property
    def seats(self) -> int:
        """Number of seats."""
    def seat(self, seat: int) -> Seat:
        """Return the seat with that index. Raises InvalidInputError if there is none."""
    def run(self, max_rounds: int = 0, seconds: float = 0.0) -> list[int]:
        """Run until a sequence ends, the number of rounds or seconds is reached (0: no limit), or
        `interrupt` is called.

        Returns the tokens of the first seat since the last call. The next round may already be in
        flight when this returns. The GIL is released. If this raises EngineError, all sequences
        have ended.
        """
    def advance(self, max_rounds: int = 0, seconds: float = 0.0) -> None:
        """As `run`, but the tokens stay for `Seat.take`, so an interrupted caller loses none."""
    def check_usable(self) -> None:
        """Raise EngineError once the core is closed, and in a forked process."""
    def idle(self, seconds: float = 0.0) -> bool:
        """Wait until the lanes are idle, at most `seconds` (0: no limit); False if they are still
        busy."""
    def end(self) -> None:
        """Drop all sequences in flight."""
    def close(self) -> None:
        """Drop all sequences and join every thread. The core cannot run any more."""
    def interrupt(self) -> None:
        """Let `run` return after its current round. Any thread may call this."""
    @property
    def order(self) -> OrderBook:
        """A copy of the commands that the dry backend recorded. Raises InvalidInputError on other
        backends."""
    def trace(self, since_ns: int = 0) -> list[tuple[str, str, int, int, bool]]:
        """Return (stream, name, begin_ns, end_ns, is_wait) of all work begun since `since_ns`. Each
        stream's work comes oldest first.

        Times are those of the clock `now_ns`. The last 32,768 events of a stream are kept. A device
        keeps only events between keep_trace(True) and keep_trace(False).
        """
    def keep_trace(self, is_on: bool) -> None:
        """Start or stop recording times on a device. Other backends always record them.

        Waits for the last round. A new start discards the earlier trace.
        """
    def profile(self, is_on: bool) -> None:
        """Call cudaProfilerStart or cudaProfilerStop on a device; does nothing on other
        backends."""
    def measure(self, seconds: float, temperature: float = 0.0) -> Costs:
        """Measure the times of forwards on this machine for about `seconds`. Drops the sequences in
        flight.

        temperature: used by the sampling at the end of a forward. Raises InvalidInputError in
        virtual time.
        """
    @property
    def now_ns(self) -> int:
        """The clock of `trace`, ns: the steady clock, or virtual time if `costs` are given."""

MAX_ROWS: int  # number of rows of the largest forward of either lane
TARGET_ROWS: int  # number of rows of the target's largest forward
MAX_SEATS: int  # maximum number of sequences that run together
ON_HOST: int  # RuntimeConfig.draft_device: the CPU
SLOTS: int  # number of in-flight slots of a ring, including the root's slot
MAX_CHAIN: int  # maximum number of nodes in a chain, not counting the root
RANK_FIRST: int  # Policy.ranking: the draft's k most probable tokens at the chain's end
RANK_ADAPTIVE: int  # Policy.ranking: as RANK_FIRST, with a larger k if the draft is less sure
RANK_LIKELY: int  # Policy.ranking: the most likely of all outcomes
GO_ON: int  # Policy.on_miss: the next round begins with an empty chain
BURST: int  # Policy.on_miss: the next round begins with a serial burst
LOOKUP: int  # Policy.on_miss: the next round begins with tokens from a look-up
MAX_BRANCHES: int  # maximum number of branches in a round
MAX_TAIL: int  # number of slots of a branch
CANDIDATES: int  # number of most probable tokens that are kept of a draft's distribution
ENDLESS: int  # maximum number of tokens that any sequence can have
FEATURE_LAYERS: int  # number of last layers whose outputs H-RAD reads
HRAD_TAIL: int  # number of nodes of a tail whose confidence H-RAD reads
HRAD_WIDTHS: tuple[int, int, int]  # number of outputs of each layer of H-RAD

def build_info() -> dict[str, str | bool]:
    """Return facts about the build of this binary.

    Its keys are version, compiler, cuda (True if it has the CUDA backend), cuda_version (the CUDA
    compiler's version, "" if there was none), cuda_architectures, and why_no_cuda. The last is a
    sentence: the reason why CUDA cannot be used on this machine, "" if it can.
    """

class LogitReader:
    """Reads a model's logits along a text, without an engine.

    longest: maximum number of tokens in a text. One thread at a time may use a reader.
    """

    def __init__(self, model: Model, longest: int, threads: int) -> None: ...
    def forward(
        self, head: int, tokens: Sequence[int], logits: bool = True
    ) -> NDArray[float32] | None:
        """Feed up to 64 tokens that follow the first `head` tokens of the text. The GIL is
        released.

        Returns logits [tokens, columns]; None if `logits` is False. Raises InvalidInputError.
        """

def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling) -> list[float]:
    """[head_dim / 2] f32: the angle in radians by which rope rotates each pair of a head per
    position."""

def allocation_count() -> int:
    """Return the number of calls of `operator new` in this library since it was loaded. A round
    makes none."""

def instruction_sets() -> list[str]:
    """Names of the instruction sets of which this machine can run our kernels, best first."""
