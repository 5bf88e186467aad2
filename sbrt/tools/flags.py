"""Flags that `sbrt` and the benches share, and functions that read their values."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import console, methods
from ..config import EngineConfig, SpeculativeConfig
from ..errors import EngineError, InvalidInputError
from ..methods import Method
from ..model import hrad, names
from ..model.hub import located
from ..sampling import SamplingParams
from ..serve.pair import Pair, load_pair
from . import closed_loop
from .costs import CostModel, read_costs
from .progress import Progress
from .prompts import BUILT_IN, read_prompts

MAX_TOKENS = 128


class Parser(argparse.ArgumentParser):
    """An argparse parser. Its error messages are one sentence, without the usage text."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise InvalidInputError instead of ending the process."""
        raise InvalidInputError(message)


def guarded(name: str, command: Callable[[], int]) -> int:
    """Run a command; returns its exit code.

    Bad input and failures print one sentence on stderr and give exit code 2.
    """
    with console.prepared():
        try:
            try:
                code = command()
            except SystemExit:  # after --help
                sys.stdout.flush()
                raise
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # the reader of our output has disconnected
            return 1
        except (EngineError, InvalidInputError, MemoryError, OSError, UnicodeError) as error:
            sentence = " ".join(str(error).split()) or "out of memory"
            print(f"{name}: error: {sentence}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            return 130


def add_pair_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every command that answers prompts: models, threads, sampling."""
    add_engine_flags(parser)
    add = parser.add_argument
    add("--max-tokens", type=int, default=MAX_TOKENS, metavar="N", help="default: %(default)s")
    add("--temperature", type=float, default=0.0, metavar="T", help="default: 0, greedy")
    add("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    add("--top-p", type=float, default=1.0, metavar="P", help="default: 1, no limit")
    add("--top-k", type=int, default=0, metavar="K", help="default: 0, no limit")
    add("--ignore-eos", action="store_true", help="continue after an end-of-sequence token")


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that define an engine: models and threads."""
    add = parser.add_argument
    add(
        "--target",
        default=names.DEMO,
        metavar="MODEL|demo|smollm2",
        help="Hugging Face folder, GGUF file, or ORG/NAME on the hub (default: demo)",
    )
    add(
        "--draft",
        metavar="MODEL|demo|demo-poor|smollm2|random|none",
        help="the model that drafts (default: that of a named target, else none)",
    )
    _add_thread_flags(parser)
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "int8", "int4"),
        default="auto",
        help="storage of the weights; float16 only on cuda",
    )
    add("--draft-dtype", metavar="D", help="storage of the draft's (default: that of --dtype)")
    add(
        "--activation-dtype",
        choices=("float32", "int8"),
        default="auto",
        help="inputs of products (default: int8 next to int8 and int4 weights, else float32)",
    )
    add("--device", default="cpu", metavar="cpu|cuda[:N]", help="default: %(default)s")
    add("--draft-device", metavar="D", help="device of the draft (default: that of --device)")


def _add_thread_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for threads and the cores of these threads."""
    add = parser.add_argument
    add(
        "--threads",
        type=int,
        metavar="N",
        help="threads in total (default: the cores this process may use)",
    )
    add("--draft-threads", type=int, metavar="N", help="threads of the draft while both models run")
    add(
        "--cpu-affinity",
        metavar="CORES",
        help="cores of the target's threads, one each, such as 0-3,8 (default: not pinned)",
    )
    add("--draft-cpu-affinity", metavar="CORES", help="cores of the draft's threads, one each")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the pair of models, a prompt, options of methods, and the output of
    figures."""
    add_pair_flags(parser)
    add = parser.add_argument
    add("--prompt", metavar="TEXT", help="the prompt, used raw")
    add("--prompt-file", type=Path, metavar="F", help="file whose whole text is the prompt")
    add_size_flags(parser)
    add_json_flag(parser)


def add_size_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the number of tokens that methods draft ahead."""
    add = parser.add_argument
    add("--gamma", type=int, metavar="G", help=f"draft steps per burst (default: {methods.GAMMA})")
    add("--branches", type=int, metavar="K", help="most branches per round")


def add_method_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that selects the method, for commands that run only one method."""
    parser.add_argument(
        "--method",
        metavar="NAME[:key=value,...]",
        help=f"default: {methods.DEFAULT}, {methods.DEFAULT_ON_CUDA} on cuda, none without a draft",
    )


def add_trace_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names the trace's file."""
    parser.add_argument(
        "--trace", type=Path, metavar="F.json", help="write the work of each lane as a Chrome trace"
    )


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that writes figures as JSON."""
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="OUT",
        help="figures as JSON, to a file or, without OUT, to stdout",
    )


def add_method_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for several methods, and for the prompts to run them on."""
    add = parser.add_argument
    add("--methods", metavar="A,B,...", help=f"default: {','.join(methods.METHODS)}")
    add("--prompts", type=Path, metavar="F", help="JSON lines: prompt, question or turns")
    add("--limit", type=int, metavar="N", help="only the first N prompts of the file")


def add_view_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for pictures of a comparison, and for simulated time."""
    add_trace_flag(parser)
    add = parser.add_argument
    add("--png", type=Path, metavar="F", help="draw both lanes over time")
    add(
        "--simulate",
        metavar="c=8|NAME|COSTS.json",
        help="real tokens, simulated time: a target forward costs c draft forwards, or a cost file",
    )
    add(
        "--then-simulate",
        metavar="c=8|NAME|COSTS.json",
        help="after the clock's table, the same methods and settings in simulated time",
    )


def add_concurrency_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag for the number of sequences that a simulated comparison keeps in flight."""
    parser.add_argument(
        "--concurrency",
        metavar="N",
        help="with --simulate: keep N sequences in flight (default: one prompt after the other)",
    )


def sampling(args: argparse.Namespace) -> SamplingParams:
    """Return the parameters that the sampling flags give. Raises InvalidInputError."""
    return SamplingParams(
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        seed=args.seed,
        max_tokens=args.max_tokens,
        ignore_eos=args.ignore_eos,
    )


def draft_name(args: argparse.Namespace) -> str:
    """Return the name of the draft: the value of --draft, or else the default for the target."""
    if args.draft is not None:
        return str(args.draft)
    return names.default_draft(args.target)


def default_method(args: argparse.Namespace) -> str:
    """Return the preset to use if a command line names no method."""
    if draft_name(args) == names.NONE:
        return "none"
    return methods.DEFAULT_ON_CUDA if args.device.startswith("cuda") else methods.DEFAULT


def target_folder(args: argparse.Namespace) -> Path:
    """Return the folder or file that --target names."""
    return located(names.target_folder(args.target))


def draft_folder(args: argparse.Namespace) -> Path | None:
    """Return the folder or file of the draft; None for a draft without files, such as `random`."""
    folder, _ = names.draft_of(draft_name(args))
    return None if folder is None else located(folder)


def read_methods(args: argparse.Namespace, texts: Sequence[str]) -> list[Method]:
    """Parse presets, completed by the values of --gamma, --branches and --hrad. Raises
    InvalidInputError."""
    given = getattr(args, "hrad", None) or methods.HRAD_OFF
    found = [
        methods.parse(text, gamma=args.gamma, k_max=args.branches, hrad=str(given))
        for text in texts
    ]
    if given != methods.HRAD_OFF and not any(map(hrad.is_on, found)):
        raise InvalidInputError(f"--hrad: expected a method that has a use for it, got {texts}")
    return [hrad.fitted(method, args.gamma, draft_folder(args)) for method in found]


def load(args: argparse.Namespace, given: Sequence[Method]) -> tuple[EngineConfig, Pair]:
    """Load the models that the flags name; returns the config and the pair.

    The draft is loaded only if a method uses one.
    """
    target = target_folder(args)
    folder, make_draft = names.draft_of(draft_name(args))
    folder = None if folder is None else located(folder)
    drafting = [method for method in given if method.drafts]
    needing = [method for method in given if method.needs_draft]
    if needing and folder is None and make_draft is None:
        raise InvalidInputError(
            f"method {needing[0].name}: expected a draft model, got --draft none"
        )
    _check_draft_flags(args, folder if drafting else None)
    # The engine's own method is the given method with the most options. So it has every option for
    # which a flag is used.
    own = max(given, key=lambda method: len(method.options)).text if given else "none"
    config = EngineConfig(
        model=target,
        dtype=args.dtype,
        activation_dtype=args.activation_dtype,
        device=args.device,
        num_threads=args.threads,
        draft_threads=args.draft_threads,
        cpu_affinity=args.cpu_affinity,
        trace=any(getattr(args, name, None) is not None for name in ("trace", "png")),
        speculative=SpeculativeConfig(
            method=own,
            model=folder if drafting else None,
            dtype=args.draft_dtype,
            device=args.draft_device,
            cpu_affinity=args.draft_cpu_affinity,
            num_speculative_tokens=args.gamma,
            num_branches=args.branches,
        ),
    )
    bar = Progress("loading")
    try:
        pair = load_pair(config, progress=bar.update, make_draft=make_draft if drafting else None)
    finally:
        bar.close()
    return config, pair


def _check_draft_flags(args: argparse.Namespace, folder: Path | None) -> None:
    """Raise InvalidInputError if a flag places the draft, but no draft is used.

    folder: the folder of the draft that is used; None if no draft is used.
    """
    for flag, given in (
        ("--draft-device", args.draft_device),
        ("--draft-cpu-affinity", args.draft_cpu_affinity),
    ):
        if given is not None and folder is None:
            raise InvalidInputError(
                f"{flag}: expected a draft with weights and a method that uses it, got "
                f"{given} for --draft {draft_name(args)}"
            )


def costs(args: argparse.Namespace) -> CostModel | None:
    """Return the costs that --simulate gives; None without the flag. Raises InvalidInputError,
    OSError."""
    given = getattr(args, "simulate", None)
    return None if given is None else read_costs(given)


def later_costs(args: argparse.Namespace) -> CostModel | None:
    """Return the costs that --then-simulate gives; None without the flag. Raises InvalidInputError,
    OSError."""
    given = getattr(args, "then_simulate", None)
    if given is None:
        return None
    if args.simulate is not None:
        raise InvalidInputError("--then-simulate: expected the clock first, got --simulate")
    if args.device.startswith("cuda"):
        raise InvalidInputError(f"--then-simulate: expected --device cpu, got {args.device}")
    return read_costs(given, "--then-simulate")


def concurrency(args: argparse.Namespace) -> int | None:
    """Return the number that --concurrency gives; None without the flag. Raises
    InvalidInputError."""
    given = getattr(args, "concurrency", None)
    if given is None:
        return None
    found = closed_loop.counts("--concurrency", given)
    if len(found) > 1:
        raise InvalidInputError(f"--concurrency: expected one number, got {len(found)}")
    if args.simulate is None:
        raise InvalidInputError("--concurrency: expected --simulate next to it, got none")
    for name in ("trace", "png"):
        if getattr(args, name) is not None:
            raise InvalidInputError(f"--concurrency: expected no --{name} next to it")
    return found[0]


def prompts(args: argparse.Namespace) -> list[str]:
    """Return the prompts of a comparison: the prompt that a flag gives, the prompts of a file, or
    the built-in prompts."""
    given = [args.prompt is not None, args.prompt_file is not None, args.prompts is not None]
    if sum(given) > 1:
        raise InvalidInputError("prompts: expected one of --prompt, --prompt-file, --prompts")
    if args.limit is not None and args.limit < 1:
        raise InvalidInputError(f"--limit: expected at least 1, got {args.limit}")
    if args.prompts is not None:
        return read_prompts(args.prompts, args.limit)
    one = one_prompt(args)
    return [one] if one is not None else list(BUILT_IN[: args.limit])


def one_prompt(args: argparse.Namespace) -> str | None:
    """Return the raw text that --prompt or --prompt-file gives; None without these flags."""
    if args.prompt is not None and args.prompt_file is not None:
        raise InvalidInputError("prompt: expected --prompt or --prompt-file, got both")
    if args.prompt_file is not None:
        return read_text(str(args.prompt_file), args.prompt_file.read_bytes())
    return None if args.prompt is None else str(args.prompt)


def read_text(name: str, raw: bytes) -> str:
    """Decode `raw` as UTF-8. Raises InvalidInputError, naming the first wrong byte."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{name}: expected UTF-8, got byte {raw[error.start]:#x} at {error.start}"
        ) from None
