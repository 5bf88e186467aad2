"""Measures methods on the same prompts, for `sbrt compare` and `bench.decode`.

All methods answer a prompt before the next prompt begins. Plain decoding (`none`) always runs. No
figure includes prefill (`Tally.line` has the definitions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .. import check
from .._core import Costs
from ..config import EngineConfig
from ..engine import Engine
from ..errors import EngineError, InvalidInputError
from ..methods import Method
from ..outputs import RequestOutput, ratio
from ..sampling import SamplingParams
from ..serve.pair import Pair
from ..trace.spans import Round, Span
from .closed_loop import Load
from .costs import SECOND, CostModel

WARM_TOKENS = 16
PLACEMENTS = ("shared", "split")

# Arguments: phase, answers done, total answers, current method.
Progress = Callable[[str, int, int, str], None]


@dataclass
class Tally:
    """The sums over all answers of one method. spans, rounds: the trace of the longest answer."""

    method: Method
    threads: int
    draft_threads: int
    prompts: int = 0
    tokens: int = 0
    seconds: float = 0.0
    prefill_seconds: float = 0.0
    passes: int = 0
    draft_tokens: int = 0
    accepted: int = 0
    rollback: int = 0
    hits: int = 0
    branch_rounds: int = 0
    discarded: int = 0
    draft_seconds: float = 0.0  # time in which the draft lane works
    verify_seconds: float = 0.0  # time in which the target lane works
    overlap_seconds: float = 0.0  # time in which both lanes work
    is_identical: bool = True
    outputs: list[RequestOutput] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    traced_tokens: int = 0  # number of tokens of the answer that `spans` belongs to
    sweep: list[dict[str, Any]] = field(default_factory=list)  # settings tried, with their results
    # The number of rounds for which `auto` chose each method.
    chosen: dict[str, int] = field(default_factory=dict)
    load: Load | None = None  # the results, if the method ran in a closed loop

    @property
    def rate(self) -> float:
        """Generated tokens per second. In a closed loop, this is the total of all sequences during
        the rounds in which all of them decode."""
        if self.load is not None:
            return ratio(self.load.tokens, self.load.seconds)
        return ratio(self.tokens, self.seconds)

    def add(self, output: RequestOutput, plain: RequestOutput | None) -> None:
        """Count one answer. plain: the answer of plain decoding to the same prompt."""
        [answer] = output.outputs
        if answer.finish_reason == "error":
            raise EngineError(f"method {self.method.text}: {answer.stop_reason}")
        self.prompts += 1
        self.outputs.append(output)
        spec, metrics = answer.spec_decode_metrics, output.metrics
        if spec is None:  # max_tokens 0: nothing ran
            return
        self.tokens += len(answer.token_ids)
        self.seconds += metrics.decode_seconds if metrics else 0.0
        self.prefill_seconds += metrics.prefill_seconds if metrics else 0.0
        self.passes += spec["num_spec_steps"]
        self.draft_tokens += spec["num_draft_tokens"]
        self.accepted += spec["num_accepted_draft_tokens"]
        self.rollback += spec["num_rollback_tokens"]
        self.hits += spec["num_branch_hits"]
        self.branch_rounds += spec["num_branch_rounds"]
        self.discarded += spec["num_discarded_branch_tokens"]
        self.draft_seconds += spec["draft_time_s"]
        self.verify_seconds += spec["verify_time_s"]
        self.overlap_seconds += spec["overlap_time_s"]
        for name, rounds in spec.get("auto", {}).get("rounds", {}).items():
            self.chosen[name] = self.chosen.get(name, 0) + rounds
        if plain is not None:
            self.is_identical &= answer.token_ids == plain.outputs[0].token_ids

    @property
    def options(self) -> dict[str, Any]:
        """Return every option of the method with its value, and two further items.

        sweep: the settings that were tried, if options were swept. rounds: for `auto`, the number
        of rounds of each chosen method.
        """
        found: dict[str, Any] = dict(self.method.options)
        found |= {"rounds": self.chosen} if self.chosen else {}
        return found | {"sweep": self.sweep} if self.sweep else found

    def line(
        self, plain_rate: float, placement: str, dtypes: tuple[str, str], device: str
    ) -> dict[str, Any]:
        """Return the JSON object of this method. dtypes: the dtype of the weights and the dtype of
        the activations.

        target_passes: number of rounds. tokens_per_pass: tokens / target_passes. draft_tokens: sum
        of the depths of the verified chains. acceptance_rate: accepted / draft_tokens.
        rollback_rate: rollback_tokens / tokens. branch_rounds: rounds with a prepared branch after
        which the sequence went on. branch_hits: number of branch_rounds whose outcome had a branch.
        seconds: from the end of both prefills to the last token. A ratio with denominator 0 is 0.0.
        If the device is sim, seconds are seconds of simulated time or, with c=N, draft forwards;
        tokens_per_second are tokens per such unit.
        """
        return {
            "method": self.method.text,
            "prompts": self.prompts,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "prefill_seconds": self.prefill_seconds,
            "tokens_per_second": self.rate,
            "speedup": ratio(self.rate, plain_rate),
            "target_passes": self.passes,
            "tokens_per_pass": ratio(self.tokens, self.passes),
            "draft_tokens": self.draft_tokens,
            "acceptance_rate": ratio(self.accepted, self.draft_tokens),
            "rollback_tokens": self.rollback,
            "rollback_rate": ratio(self.rollback, self.tokens),
            "branch_hits": self.hits,
            "branch_rounds": self.branch_rounds,
            "discarded_branch_tokens": self.discarded,
            "identical_to_none": self.is_identical,
            "threads": self.threads,
            "draft_threads": self.draft_threads,
            "placement": placement,
            "dtype": dtypes[0],
            "activation_dtype": dtypes[1],
            "device": device,
            "options": self.options,
        }


@dataclass(frozen=True)
class Report:
    """The results of a comparison.

    tallies: one for each mention of a method, in order. plain: the tally of plain decoding, which
    is one of `tallies` if the user named it. simulated: the cost model; None if time was measured.
    sampled: True if the temperature was above 0. concurrency: number of sequences of a closed loop;
    None if prompts ran one after the other.
    """

    tallies: list[Tally]
    plain: Tally
    placement: str
    dtype: str
    skipped: int
    simulated: CostModel | None = None
    sampled: bool = False
    device: str = "cpu"
    activation_dtype: str = "float32"
    concurrency: int | None = None

    @property
    def wrong(self) -> list[Tally]:
        """The tallies whose tokens differ from plain decoding, although they should be equal."""
        exempt = [t for t in self.tallies if self.sampled and t.method.rejection]
        return [t for t in self.tallies if not t.is_identical and t not in exempt]

    @property
    def unit(self) -> str:
        """The unit of every field `seconds`: a second, or a draft forward."""
        return self.simulated.unit if self.simulated else SECOND

    def line(self, tally: Tally) -> dict[str, Any]:
        """Return the JSON object of a tally.

        In a closed loop tokens_per_second is full_tokens / full_seconds: tokens and time of the
        rounds in which all `concurrency` sequences decode. `seconds` is the sum of the times of all
        answers.
        """
        device = "sim" if self.simulated else self.device
        dtypes = (self.dtype, self.activation_dtype)
        line = tally.line(self.plain.rate, self.placement, dtypes, device)
        if self.concurrency is None or tally.load is None:
            return line
        return line | {
            "concurrency": self.concurrency,
            "full_tokens": tally.load.tokens,
            "full_seconds": tally.load.seconds,
        }

    def lines(self) -> list[dict[str, Any]]:
        """Return the JSON objects, one for each mention of a method."""
        return [self.line(tally) for tally in self.tallies]

    def shown(self) -> list[Tally]:
        """Return the tallies to show. Plain decoding comes first if it was not named."""
        named = any(tally is self.plain for tally in self.tallies)
        return self.tallies if named else [self.plain, *self.tallies]


@dataclass(frozen=True)
class Bench:
    """The engines for one pair of models. `main` runs methods that draft, `plain` runs methods that
    do not.

    With placement `shared` both are the same engine. With placement `split`, the engine `plain` has
    only the target's threads.
    """

    main: Engine
    plain: Engine
    placement: str

    @classmethod
    def open(
        cls,
        config: EngineConfig,
        pair: Pair,
        methods: Sequence[Method],
        placement: str = "shared",
        costs: Costs | None = None,
    ) -> Bench:
        """Open the engines. costs: the costs of simulated time; None: real time is measured.

        Prefix caching is off, so every method feeds the whole prompt. Raises InvalidInputError on
        an unknown placement, or a method without its draft.
        """
        check.one_of("placement", placement, PLACEMENTS)
        total, draft = config.threads()
        if placement == "split" and total == draft:
            raise InvalidInputError(f"placement split: expected at least 2 threads, got {total}")
        if pair.draft is None and any(method.needs_draft for method in methods):
            name = next(method.name for method in methods if method.needs_draft)
            raise InvalidInputError(f"method {name}: expected a draft model, got none")
        config = replace(config, enable_prefix_caching=False)
        main = Engine(config, pair=pair, methods=methods, costs=costs)
        if placement == "shared":
            return cls(main, main, placement)
        share = replace(config, num_threads=total - draft, draft_threads=None)
        own = [method for method in methods if not method.drafts]
        return cls(main, Engine(share, pair=pair, methods=own, costs=costs), placement)

    def engine(self, method: Method) -> Engine:
        """Return the engine that runs `method`."""
        return self.main if method.drafts else self.plain

    def tally(self, method: Method) -> Tally:
        """Return an empty tally, with the numbers of threads that the method will have."""
        engine = self.engine(method)
        return Tally(method, engine.num_threads, engine.draft_threads if method.drafts else 0)

    def run(self, method: Method, prompt_ids: list[int], params: SamplingParams) -> RequestOutput:
        """Run one generation."""
        return self.engine(method).generate(prompt_ids, params, method=method)[0]

    def close(self) -> None:
        """Close the engines. The loaded models stay."""
        self.main.close()
        self.plain.close()


def measure(
    bench: Bench,
    methods: Sequence[Method],
    none: Method,
    prompts: Sequence[str],
    params: SamplingParams,
    *,
    progress: Progress | None = None,
    keep_spans: bool = False,
) -> Report:
    """Run every method on every prompt. none: the method of plain decoding, which always runs.

    Raises EngineError if a generation fails; prompts that do not fit are skipped and counted.
    """
    tallies = [bench.tally(method) for method in methods]
    named = [tally for tally in tallies if tally.method.name == "none"]
    plain = named[0] if named else bench.tally(none)
    order = [plain, *(tally for tally in tallies if tally is not plain)]
    given = fitting(bench.main, prompts, params)
    warm = replace(params, max_tokens=min(WARM_TOKENS, params.max_tokens or WARM_TOKENS))
    say = progress or silent
    for done, tally in enumerate(order):
        say("warming up", done, len(order), tally.method.text)
        bench.run(tally.method, given[0], warm)
    for done, ids in enumerate(given):
        outputs: list[RequestOutput] = []
        turns = _rotated(order, done)
        for at, tally in enumerate(turns, start=done * len(order)):
            what = f"{tally.method.text}, prompt {done + 1} of {len(given)}"
            say("generating", at, len(given) * len(order), what)
            outputs.append(run_one(bench, tally, ids, params, keep_spans))
        _count(turns, outputs, plain)
    return Report(
        tallies=tallies,
        plain=plain,
        placement=bench.placement,
        dtype=bench.main.pair.dtype,
        activation_dtype=bench.main.pair.activation_dtype,
        skipped=len(prompts) - len(given),
        sampled=not params.greedy,
        device=bench.main.config.device if bench.main.config.on_cuda else "cpu",
    )


def run_one(
    bench: Bench, tally: Tally, ids: list[int], params: SamplingParams, keep_spans: bool
) -> RequestOutput:
    """Answer one prompt. The tally keeps the trace if this answer is its longest. The answer is not
    counted yet."""
    output = bench.run(tally.method, ids, params)
    tokens = len(output.outputs[0].token_ids)
    if keep_spans and tokens > tally.traced_tokens:
        engine = bench.engine(tally.method)
        tally.spans, tally.rounds, tally.traced_tokens = engine.trace(), engine.rounds(), tokens
    return output


def _count(order: Sequence[Tally], outputs: Sequence[RequestOutput], plain: Tally) -> None:
    [reference] = [o for tally, o in zip(order, outputs, strict=True) if tally is plain]
    for tally, output in zip(order, outputs, strict=True):
        tally.add(output, reference)


def silent(phase: str, done: int, total: int, what: str) -> None:
    """Ignore progress."""


def _rotated(order: Sequence[Tally], by: int) -> list[Tally]:
    """Return the methods in rotated order. The first method runs with cold caches and a high clock
    rate, so the methods take turns to be first."""
    at = by % len(order)
    return [*order[at:], *order[:at]]


def fitting(
    engine: Engine, prompts: Sequence[str] | Sequence[list[int]], params: SamplingParams
) -> list[list[int]]:
    """Return the ids of the prompts that leave room for max_tokens.

    Raises InvalidInputError if no prompt leaves room.
    """
    room = engine.max_model_len - (params.max_tokens or 1)
    found = []
    for prompt in prompts:
        try:
            ids = engine.encode(prompt) if isinstance(prompt, str) else prompt
        except InvalidInputError:
            continue
        if len(ids) <= room:
            found.append(ids)
    if not found:
        raise InvalidInputError(
            f"prompts: expected one of at most {room} tokens, got {len(prompts)} longer ones"
        )
    return found
