"""`python -m bench.clients`: runs third-party clients, unmodified, against `sbrt serve`.

    python -m bench.clients --clients vllm,aiperf --requests 16 --tokens 32

`make clients` sets up the clients' environments. The figures that a client reports must equal those
that the server's own /metrics counted in the same time.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sbrt import InvalidInputError
from sbrt.model import names
from sbrt.tools import compare, flags

from ..models.served import served
from .figures import Figures, between, scrape
from .programs import PROGRAMS, Run, python_of

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 after a difference, 2 for bad input."""
    return flags.guarded("bench.clients", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = flags.Parser(prog="python -m bench.clients", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--clients", default=",".join(PROGRAMS), metavar="A,B", help="default: %(default)s")
    add("--requests", type=int, default=16, metavar="N", help="default: %(default)s")
    add("--tokens", type=int, default=32, metavar="N", help="default: %(default)s")
    flags.add_json_flag(parser)
    args = parser.parse_args(argv)
    clients = args.clients.split(",")
    for client in clients:
        if client not in PROGRAMS:
            known = ", ".join(PROGRAMS)
            raise InvalidInputError(f"--clients: expected some of {known}, got {client!r}")
    lines = [_line(client, args.requests, args.tokens) for client in clients]
    if args.json is not None:
        compare.write_json(args.json, lines)
    else:
        print("\n".join(map(_shown, lines)))
    return 0 if all(line["agrees"] for line in lines if not line["missing"]) else 1


def _line(client: str, requests: int, tokens: int) -> dict[str, Any]:
    """Run one client against a new server. Returns the client's and the server's figures, and how
    they differ."""
    line: dict[str, Any] = {"client": client, "missing": not python_of(client).exists()}
    if line["missing"]:
        return line
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "chat.jinja"
        template.write_text(TEMPLATE)
        words = ["--chat-template", str(template), "--method", "draft_model"]
        with served(words) as (host, port):
            base = f"http://{host}:{port}"
            target = Path(names.target_folder(names.DEMO))
            before = scrape(base)
            said = PROGRAMS[client](Run(base, Path(folder), target, requests, tokens))
            counted = between(before, scrape(base))
    wrong = said.differences(counted)
    return line | {
        "client_says": asdict(said),
        "server_says": asdict(counted),
        "agrees": not wrong,
        "differences": wrong,
    }


def _shown(line: dict[str, Any]) -> str:
    if line["missing"]:
        return f"{line['client']}: expected .venv-clients/{line['client']} (make clients), got none"
    said = Figures(**line["client_says"])
    parts = [f"{value} {name}" for name, value in asdict(said).items() if value is not None]
    found = "as /metrics" if line["agrees"] else f"NOT as /metrics: {line['differences']}"
    return f"{line['client']}: {', '.join(parts)}; {found}"


if __name__ == "__main__":
    sys.exit(main())
