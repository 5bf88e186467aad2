"""The command `sbrt`: generate, compare, serve, plan, draft, hrad, fetch and demo."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import console
from ..engine import Engine
from ..methods import Method
from ..outputs import RequestOutput
from ..trace.chrome import Recording, write_chrome
from . import compare, demo, fetch, flags, plan, serve
from .draft import cli as draft_cli
from .hrad import cli as hrad_cli
from .progress import Progress


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 1 after a defect, 2 for bad input."""
    return flags.guarded("sbrt", lambda: _main(sys.argv[1:] if argv is None else list(argv)))


def _main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    return int(args.run(args))


def _parser() -> argparse.ArgumentParser:
    parser = flags.Parser(
        prog="sbrt",
        description="Speculative decoding: a draft works ahead of the target, no token changes.",
    )
    names = "generate|compare|serve|plan|draft|hrad|fetch|demo"
    commands = parser.add_subparsers(required=True, metavar=names)
    generate = commands.add_parser("generate", help="answer one prompt")
    flags.add_model_flags(generate)
    flags.add_trace_flag(generate)
    flags.add_method_flag(generate)
    generate.set_defaults(run=_generate)
    several = commands.add_parser("compare", help="run several methods, check every token")
    flags.add_model_flags(several)
    flags.add_method_flags(several)
    flags.add_view_flags(several)
    flags.add_concurrency_flag(several)
    several.set_defaults(run=compare.run)
    serve.add_flags(commands.add_parser("serve", help="serve OpenAI's API over HTTP"))
    plan.add_flags(commands.add_parser("plan", help="predict each method's speed from costs"))
    draft_cli.add_commands(commands.add_parser("draft", help="make a draft, or judge one"))
    hrad_cli.add_commands(commands.add_parser("hrad", help="train the classifier that cuts chains"))
    demo.add_flags(commands.add_parser("demo", help="the real pair, all methods"))
    fetch.add_flags(commands.add_parser("fetch", help="download the real pair's target"))
    return parser


def _generate(args: argparse.Namespace) -> int:
    compare.check_outputs(args)
    [method] = flags.read_methods(args, [args.method or flags.default_method(args)])
    prompt = _prompt(args)
    if args.json is not None:
        return _generate_json(args, method, prompt)
    params = flags.sampling(args)
    config, pair = flags.load(args, [method])
    bar = Progress("reading the prompt")
    with Engine(config, pair=pair) as engine:
        engine.on_prefill = bar.update
        try:
            for output in engine.stream(prompt, params):
                bar.close()
                print(output.delta, end="", flush=True)
        finally:
            bar.close()
        print()
        print(_figures(method, output), file=sys.stderr)
        if args.trace is not None:
            recording = Recording(method.text, engine.trace(), engine.rounds())
            write_chrome(args.trace, [recording])
    return 2 if output.outputs[0].finish_reason == "error" else 0


def _generate_json(args: argparse.Namespace, method: Method, prompt: str) -> int:
    """Write the same JSON object as `sbrt compare`, for one method, with its answer; returns the
    exit code.

    Plain decoding runs, too, because the object compares the method with it.
    """
    [report] = compare.measured(args, [method], [prompt], "shared")
    [line], [tally] = report.lines(), report.tallies
    answer = tally.outputs[0].outputs[0]
    line |= {
        "prompt": prompt,
        "text": answer.text,
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason,
    }
    compare.write_json(args.json, [line])
    return compare.verdict(report)


def _prompt(args: argparse.Namespace) -> str:
    prompt = flags.one_prompt(args)
    if prompt is not None:
        return prompt
    return flags.read_text("standard input", console.read_stdin("prompt"))


def _figures(method: Method, output: RequestOutput) -> str:
    [answer] = output.outputs
    if answer.finish_reason == "error":
        return f"sbrt: error: {answer.stop_reason}"
    spec, metrics = answer.spec_decode_metrics, output.metrics
    tokens = len(answer.token_ids)
    if not spec or not metrics or not metrics.decode_seconds:
        return f"[{method.text}] {tokens} tokens"
    return (
        f"[{method.text}] {tokens} tokens in {metrics.decode_seconds:.2f} s, "
        f"{tokens / metrics.decode_seconds:.0f} tokens/s, "
        f"{tokens / spec['num_spec_steps']:.2f} tokens per target pass"
    )


if __name__ == "__main__":
    raise SystemExit(main())
