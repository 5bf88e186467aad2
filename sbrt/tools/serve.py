"""The command `sbrt serve`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from .. import check, methods
from ..engine import Engine
from ..errors import InvalidInputError
from ..methods import Method
from ..server import KEY, expect_extra
from . import flags

MOST_WAITING = 256


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `sbrt serve`."""
    flags.add_engine_flags(parser)
    flags.add_method_flag(parser)
    flags.add_size_flags(parser)
    add = parser.add_argument
    add("--max-model-len", type=int, metavar="N", help="most tokens of prompt and answer together")
    add("--max-num-seqs", type=int, metavar="N", help="requests that share rounds (default: 8)")
    add(
        "--max-num-batched-tokens",
        type=int,
        metavar="N",
        help="tokens of a prompt and of running requests between two outputs (default: no limit)",
    )
    add(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="reuse the beginning of a prompt that a seat has (default: on a CPU)",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8000, help="default: %(default)s; 0: any that is free")
    add("--served-model-name", nargs="+", metavar="NAME", help="the model's names for clients")
    add(
        "--api-key",
        metavar="KEY",
        help=f"the key that clients must send (default: ${KEY}, else nothing)",
    )
    add("--chat-template", type=Path, metavar="F", help="a Jinja file in place of the model's own")
    add(
        "--trust-request-chat-template",
        action="store_true",
        help="render templates in requests, in a sandbox",
    )
    add("--profile-dir", type=Path, metavar="DIR", help="where /start_profile writes")
    _add_limits(parser)
    add("--no-access-log", action="store_true", help="do not log each request")
    parser.set_defaults(run=run)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--max-waiting-requests",
        type=int,
        default=MOST_WAITING,
        metavar="N",
        help="requests in the queue before further ones get status 429 (default: %(default)s)",
    )
    add(
        "--shutdown-timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds that running requests have after SIGTERM or Ctrl-C (default: %(default)s)",
    )
    add(
        "--send-timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds that a client may read nothing of its answer (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; returns the exit code. Raises InvalidInputError, OSError."""
    expect_extra()
    from ..server.protocol import Limits
    from ..server.run import serve
    from ..server.service import Service, Settings

    check.integer("--port", args.port, 0, 65535)
    check.integer("--max-waiting-requests", args.max_waiting_requests, 0)
    check.number("--shutdown-timeout", args.shutdown_timeout, 0, 1e6)
    check.number("--send-timeout", args.send_timeout, 0.001, 1e6)
    key = args.api_key if args.api_key is not None else os.environ.get(KEY)
    if key is not None:
        check.text("--api-key", key)
    names = tuple(check.text("--served-model-name", n) for n in args.served_model_name or ())
    settings = Settings(
        names=names or (str(args.target),),
        root=str(flags.target_folder(args)),
        api_key=key,
        limits=Limits(waiting=args.max_waiting_requests, send_seconds=args.send_timeout),
        template=args.chat_template,
        trusts_templates=args.trust_request_chat_template,
    )
    address = (args.host, args.port)
    with _logging(has_access=not args.no_access_log):
        return serve(Service(settings), lambda: _engine(args), address, args.shutdown_timeout)


def _engine(args: argparse.Namespace) -> Engine:
    """Make the engine that the flags describe. Requests may name every method that the engine can
    run."""
    [method] = flags.read_methods(args, [args.method or flags.default_method(args)])
    config, pair = flags.load(args, [method])
    config = replace(
        config,
        max_model_len=args.max_model_len,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        enable_prefix_caching=args.enable_prefix_caching,
        profile_dir=args.profile_dir,
    )
    return Engine(config, pair=pair, methods=_further(args, method, pair.draft is not None))


def _further(args: argparse.Namespace, own: Method, has_draft: bool) -> list[str]:
    """Return the presets that requests may name in addition to the engine's own."""
    names = methods.METHODS if has_draft else methods.DRAFTLESS
    rule = ":acceptance=rejection" if own.rejection else ""
    texts = [name if name in methods.DRAFTLESS else name + rule for name in names]
    return [text for text in texts if _can_run(text, args)]


def _can_run(text: str, args: argparse.Namespace) -> bool:
    """True if a preset fits the sizes and the device of the flags."""
    try:
        flags.read_methods(args, [text])
    except InvalidInputError:
        return False
    return True


@contextmanager
def _logging(*, has_access: bool) -> Iterator[None]:
    """Write the server's log to stderr inside this context."""
    log, access = logging.getLogger("sbrt.server"), logging.getLogger("sbrt.server.access")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    before = log.level, log.propagate, access.disabled
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate, access.disabled = False, not has_access
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate, access.disabled = before[1:]
