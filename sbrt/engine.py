"""The engine's Python interface: it takes prompts and returns text. The C++ module `_core` does the
heavy work."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import check
from ._core import Costs, EngineCore
from .config import EngineConfig, Folder, SpeculativeConfig, build
from .errors import EngineError, InvalidInputError
from .methods import Method
from .model import names
from .model.hub import with_local_paths
from .outputs import RequestOutput
from .sampling import SamplingParams
from .serve.pair import Pair, load_pair
from .serve.presets import Presets
from .serve.request import Outputs, Params, Request, RequestMaker, Sink, split_params, split_prompts
from .serve.scheduler import Scheduler
from .trace.profile import profile_path
from .trace.spans import Round, Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Engine:
    """Generates text with a target model and an optional draft model that runs ahead.

    methods: further presets that requests may name. The engine's buffers fit the largest preset.
    pair: models that are already loaded.
    costs: the engine computes on one thread and reports virtual time, the sum of these costs
    (`sbrt.tools.costs`).
    tuning: the costs by which `auto` chooses; None: they are measured.
    keep_features: the engine keeps the values that `features` returns.
    draft_first: on a CUDA device the draft's work has priority when both lanes have work.
    Raises InvalidInputError on bad arguments; every method raises EngineError after `close`.
    Several threads may use one engine; their requests queue.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        pair: Pair | None = None,
        methods: Sequence[str | Method] = (),
        costs: Costs | None = None,
        tuning: Costs | None = None,
        keep_features: bool = False,
        draft_first: bool = True,
    ) -> None:
        if pair is None:
            config = with_local_paths(config)
        self.config = config
        self._costs, self._tuning, self._draft_first = costs, tuning, draft_first
        self._presets = Presets(config, methods)
        self.method = self._presets.own
        if config.on_cuda:
            self._check_on_cuda()
        self.pair = load_pair(config) if pair is None else pair
        self.max_model_len = _max_model_len(config, self.pair)
        self.num_threads, self.draft_threads = config.threads()
        self._presets.load(self.pair.draft is not None)
        self._keep_features = keep_features
        self._maker = RequestMaker(self.pair, self.max_model_len, config)
        self._inbox: Sink = deque()  # outputs that step() will return next
        self._count = itertools.count()
        self._scheduler = Scheduler(
            self._open_core(),
            self.max_model_len,
            self._presets.arms,
            keeps_trace=config.trace,
        )

    @property
    def on_prefill(self) -> Callable[[int, int], None] | None:
        """A function that is called several times a second during a long prefill.

        Its arguments are the prompt tokens fed so far and their total number. None: no function is
        called. The function runs in the thread that waits for an output. The function may call the
        engine. During such a call it is not called again.
        """
        return self._scheduler.on_prefill

    @on_prefill.setter
    def on_prefill(self, call: Callable[[int, int], None] | None) -> None:
        """Set the function that is called during a long prefill, or None."""
        self._scheduler.on_prefill = call

    @classmethod
    def from_pretrained(
        cls,
        target: Folder,
        draft: Folder | None = None,
        *,
        speculative: SpeculativeConfig | dict[str, Any] | None = None,
        **fields: Any,
    ) -> Engine:
        """Make an engine for two models. fields: further fields of EngineConfig.

        A model is a Hugging Face folder, a GGUF file, or a name on the hub: ORG/MODEL,
        ORG/MODEL/FILE.gguf. The commands' short names work here, too: target `demo` or `smollm2`;
        draft `demo`, `demo-poor`, `smollm2`, `random` or `none`. Name a folder called demo as
        "./demo" or as a Path. With a draft, the method is the default of SpeculativeConfig unless
        `speculative` names another.
        """
        if isinstance(speculative, SpeculativeConfig):
            speculative = dict(vars(speculative))
        given = dict(speculative or {})
        if draft is not None:
            if given.get("model") is not None:
                raise InvalidInputError("draft: given twice, as draft and as speculative.model")
            given["model"] = draft
        folder, make_draft = names.draft_of(given.pop("model", None))
        if folder is not None:
            given["model"] = folder
        if given or make_draft:
            fields["speculative"] = build(SpeculativeConfig, given)
        config = build(EngineConfig, {"model": names.target_folder(target), **fields})
        config = with_local_paths(config)
        return cls(config, pair=load_pair(config, make_draft=make_draft) if make_draft else None)

    def generate(
        self, prompts: Any, params: Params = None, *, method: str | Method | None = None
    ) -> list[RequestOutput]:
        """Answer one prompt or many; always returns a list, in the order of the prompts.

        One prompt is a str, a list of ids or {"prompt_token_ids": [...]}. A list of these is many
        prompts; an empty list means no prompts. Up to `max_num_seqs` prompts run together.
        params: one SamplingParams for all prompts, or a list with one for each. None: the defaults
        of SamplingParams, replaced by the values in the target's generation_config.json
        (temperature, top_p, top_k, min_p, repetition_penalty, max_new_tokens). method: the preset
        to use instead of the engine's own. On an exception, Ctrl-C included, every request of this
        call is dropped.
        """
        sink: Sink = deque()
        requests = self._make_all(prompts, params, method, sink)
        done: dict[str, RequestOutput] = {}
        try:
            self._scheduler.add(requests)
            while len(done) < len(requests):
                output = self._scheduler.next(sink)
                done[output.request_id] = output
        except BaseException:
            self._scheduler.drop(requests)
            raise
        return [done[request.id] for request in requests]

    def stream(
        self,
        prompt: Any,
        params: SamplingParams | None = None,
        *,
        method: str | Method | None = None,
    ) -> Iterator[RequestOutput]:
        """Yield the cumulative output of one prompt after every round.

        Closing the generator early aborts the request. Several rounds that take less than two
        milliseconds each share one output, because making outputs costs time. After the first
        output there are at most 500 outputs per second. `step` gives one output per round.
        """
        if (count := len(split_prompts(prompt))) != 1:
            raise InvalidInputError(f"stream: expected one prompt, got a list of {count}")
        sink: Sink = deque()
        requests = self._make_all(prompt, params, method, sink, Outputs.PACED)
        return self._outputs(requests, sink)

    def add_request(
        self,
        request_id: str,
        prompt: Any,
        params: SamplingParams | None = None,
        *,
        method: str | Method | None = None,
        completion: int = 0,
        keeps_history: bool = False,
    ) -> None:
        """Queue a request for `step`. Raises InvalidInputError on an id that is still in use.

        completion: index of this answer, below 2**32, if one prompt gets several answers with the
        same seed.
        keeps_history: the last output's `history` holds the request's rounds and the work of the
        lanes.
        """
        params = self.pair.defaults if params is None else params
        request = self._make(request_id, prompt, params, method, self._inbox, Outputs.ROUNDS)
        request.completion = check.integer("completion", completion, 0, 2**32 - 1)
        request.keeps_history = check.flag("keeps_history", keeps_history)
        self._scheduler.add([request])

    def step(self) -> list[RequestOutput]:
        """Run one round of all requests that have a seat; returns their outputs, [] if there are
        none."""
        while (found := self._scheduler.step(self._inbox)) is None:
            pass  # the round goes on; Python handles Ctrl-C between two calls
        return found

    def abort_request(self, request_ids: str | Iterable[str]) -> None:
        """Drop requests that are running or queued; `step` returns no further output of them.

        A request that `generate` or `stream` waits for ends with finish_reason "abort". Ids of
        finished requests are ignored. The engine itself makes the ids of requests of `generate` and
        `stream`. If a caller of `add_request` used the same id, the request of `add_request` is
        aborted.
        """
        wanted = {request_ids} if isinstance(request_ids, str) else set(request_ids)
        self._scheduler.abort(wanted, self._inbox)

    def unfinished_requests(self) -> list[str]:
        """Ids of requests of `add_request` that are unfinished, or whose output `step` has not
        returned yet."""
        live = [r.id for r in self._scheduler.live() if r.sink is self._inbox]
        return live + [o.request_id for o in list(self._inbox) if isinstance(o, RequestOutput)]

    def has_unfinished_requests(self) -> bool:
        """True if `step` has anything left to run or to return."""
        return self._scheduler.has_live() or bool(self._inbox)

    def encode(self, prompt: str) -> list[int]:
        """Return the token ids that `generate` would use for a prompt. Raises InvalidInputError as
        `generate` does."""
        self._scheduler.check_process()
        return self._maker.prompt(prompt)[1]

    def trace(self) -> list[Span]:
        """Return the spans of the lanes' work during the last request. The trace of a long request
        lacks the beginning.

        Raises EngineError on a CUDA device that keeps no trace (EngineConfig.trace).
        """
        if self.config.on_cuda and not self._scheduler.is_traced:
            raise EngineError(
                "trace: expected EngineConfig(trace=True) or start_profile on a CUDA device, "
                "got neither"
            )
        return self._scheduler.trace()

    def start_profile(self, path: Folder | None = None) -> None:
        """Record every request from here on, until stop_profile or close.

        path: the Chrome trace to write (None: a new file in EngineConfig.profile_dir). On a CUDA
        device this also starts a profiler's capture (cudaProfilerStart), and no file is needed.
        Raises InvalidInputError; EngineError while another profile is in progress.
        """
        self._scheduler.start_profile(profile_path(self.config, path))

    def stop_profile(self) -> Path | None:
        """End the profile and write its file, if it has one; returns the file's path.

        In the Chrome trace every request is a process of its own. Raises EngineError if no profile
        is in progress, OSError if the file cannot be written.
        """
        return self._scheduler.stop_profile()

    @property
    def now_ns(self) -> int:
        """The present time in nanoseconds, by the clock that all measured times use. With `costs`
        it is virtual time."""
        return self._scheduler.core.now_ns

    @property
    def method_names(self) -> list[str]:
        """The methods that a request may name without options, in the order of METHODS."""
        return self._presets.names()

    def rounds(self) -> list[Round]:
        """Return the results of the last request's rounds, at most of its last 4096 rounds."""
        return self._scheduler.rounds()

    def features(self) -> NDArray[np.float32]:
        """Return the H-RAD classifier's inputs after the last round, f32 [hrad.inputs(hidden)].

        The engine keeps these inputs if it was made with `keep_features`. On a CPU it also keeps
        them if a method uses H-RAD. Then they are available only after an answer that ended by
        length, because after any other end the next round has already begun. Raises
        InvalidInputError if they are not available.
        """
        return self._scheduler.features()

    def measure_costs(self, seconds: float, temperature: float = 0.0) -> Costs:
        """Measure the times of forwards on this machine, by number of rows, for about `seconds`.

        temperature: the temperature of the sampling at the end of each forward. Raises
        InvalidInputError in simulated time; EngineError while a request is unfinished.
        """
        return self._scheduler.measure_costs(seconds, temperature)

    def close(self) -> None:
        """Drop all requests, write the profile, free threads and memory. May be called twice."""
        self._scheduler.close()
        self._inbox.clear()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- requests ---

    def _make_all(
        self,
        prompts: Any,
        params: Params,
        method: str | Method | None,
        sink: Sink,
        outputs: Outputs = Outputs.LAST,
    ) -> list[Request]:
        self._scheduler.check_open()  # raises if the engine is closed, even without prompts
        many = split_prompts(prompts)
        if not many:
            return []
        each = split_params(self.pair.defaults if params is None else params, len(many))
        requests = [
            self._make(f"generate-{next(self._count)}", prompt, one, method, sink, outputs)
            for prompt, one in zip(many, each, strict=True)
        ]
        for request in requests:
            request.is_drawn = True
        return requests

    def _make(
        self,
        request_id: str,
        prompt: Any,
        params: SamplingParams,
        method: str | Method | None,
        sink: Sink,
        outputs: Outputs,
    ) -> Request:
        self._scheduler.check_open()  # raises if the engine is closed, before it checks the request
        return self._maker.make(
            request_id,
            prompt,
            params,
            method=self._presets.resolve(method),
            sink=sink,
            outputs=outputs,
        )

    def _check_on_cuda(self) -> None:
        if self._costs is not None:
            raise InvalidInputError(
                f"device {self.config.device}: expected the clock, not simulated time"
            )

    def _outputs(self, requests: Sequence[Request], sink: Sink) -> Iterator[RequestOutput]:
        try:
            self._scheduler.add(requests)
            finished = False
            while not finished:
                output = self._scheduler.next(sink)
                finished = output.finished
                yield output
        finally:
            self._scheduler.drop(requests)

    def _open_core(self) -> EngineCore:
        target_cores, draft_cores = self.config.cores()
        core = EngineCore(
            self.pair.target,
            self.pair.draft,
            max_model_len=self.max_model_len,
            num_threads=self.num_threads,
            draft_threads=self.draft_threads,
            target_cores=target_cores,
            draft_cores=draft_cores,
            vocab=self.pair.vocab,
            holes=self.pair.holes,
            backend="sim" if self._costs else "cuda" if self.config.on_cuda else "cpu",
            nvtx=self.config.nvtx,
            costs=self._costs,
            tuning=self._tuning,
            device=self.config.device_index if self.config.on_cuda else 0,
            draft_device=self.config.draft_index if self.config.is_apart else -1,
            draft_first=self._draft_first,
            keep_features=self._keep_features,
            max_num_seqs=self.config.seats,
            max_piece=self.config.piece,
            reuses_prefixes=bool(self.config.enable_prefix_caching),
            **self._presets.core_options(),
        )
        for policy in self._presets.policies():
            core.prepare(policy)
        return core


def _max_model_len(config: EngineConfig, pair: Pair) -> int:
    if config.max_model_len is None:
        return pair.target.max_positions
    return check.integer("max_model_len", config.max_model_len, 1, pair.target.longest)
