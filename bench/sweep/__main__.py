"""`python -m bench.sweep`: tunes and measures every method and every ablation in simulated time.

    python -m bench.sweep --c 8,4,16 --draft demo,demo-poor --prompts humaneval.jsonl,gsm8k.jsonl
        --temperature 0,0.8 --limit 24 --ignore-eos --json sweep.json --png sweep.png

A cell is one combination of c, draft, file of prompts and temperature. In each cell the parameters
of each method are tuned for speed on the prompts with even numbers. The figures reported are those
on the prompts with odd numbers. Every run is written to the JSON file when it ends. The same
command continues where an earlier one stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.sweep import plot, table
from bench.sweep.runs import Place, Run, Runner, Store, digest, speedup
from bench.sweep.space import ENTRIES, Entry, having, widest, with_classifier, written
from sbrt.check import show
from sbrt.errors import InvalidInputError
from sbrt.files import check_writable
from sbrt.methods import Method
from sbrt.model.fingerprint import fingerprint
from sbrt.outputs import ratio
from sbrt.sampling import SamplingParams
from sbrt.tools import flags, picture
from sbrt.tools.costs import MOST_C
from sbrt.tools.prompts import read_prompts

EVEN, ODD = "even", "odd"
DRAFTS = ("demo", "demo-poor")


@dataclass
class Cell:
    """Tunes and reports each entry, for one c, draft, file of prompts and temperature.

    An entry is a method or an ablation. chosen: the tuned setting of each entry, by name.
    """

    runner: Runner
    c: int
    draft: str
    prompts: str
    temperature: float
    folder: Path | None  # folder of the draft
    chosen: dict[str, Method] = field(default_factory=dict)

    def line(self, entry: Entry) -> dict[str, Any] | None:
        """Tune the entry, and return its figures on odd prompts. Returns None if the time limit has
        passed."""
        tuned = self._tuned(entry)
        if tuned is None:
            return None
        method, tried = tuned
        self.chosen[entry.name] = method
        run = self._run(ODD, method)
        return None if run is None else _line(entry, method, run, self.c) | {"tuned_on_even": tried}

    def where(self) -> dict[str, Any]:
        """Return the cell's c, draft, prompts and temperature, with their names as keys."""
        return {
            "c": self.c,
            "draft": self.draft,
            "prompts": self.prompts,
            "temperature": self.temperature,
        }

    def _tuned(self, entry: Entry) -> tuple[Method, list[dict[str, Any]]] | None:
        settings = entry.settings(self.c, self.folder)
        if entry.follows is not None:
            tuned = self.chosen.get(entry.follows)
            return None if tuned is None else (entry.like(tuned), [])
        if len(settings) == 1 and not entry.others:
            return settings[0], []
        tried: dict[str, tuple[Method, float]] = {}
        for group in ((), *entry.others):
            if group:
                best = max(tried.values(), key=lambda found: found[1])[0]
                settings = [having(best, options) for options in group]
            for setting in settings:
                run = self._run(EVEN, setting)
                if run is None:
                    return None
                tried[written(setting)] = (setting, speedup(run, self.c))
        best = max(tried.values(), key=lambda found: found[1])[0]
        return best, [{"setting": text, "speedup": x} for text, (_, x) in tried.items()]

    def _run(self, half: str, method: Method) -> Run | None:
        place = Place(self.draft, self.prompts, self.temperature, half)
        return self.runner.run(place, method, self.c)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 after a defect, 2 for bad input."""
    return flags.guarded("bench.sweep", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    _check(args)
    prompts = _split(args)
    store = _store(args, prompts)
    entries = {draft: _entries(args, i) for i, draft in enumerate(args.draft)}
    folders = {draft: flags.draft_folder(_one(args, draft)) for draft in args.draft}
    needed = {d: widest(entries[d], args.c, folders[d]) for d in args.draft}
    runner = Runner(
        store,
        args.c,
        {t: _params(args, t) for t in args.temperature},
        prompts,
        lambda draft: flags.load(_one(args, draft), needed[draft]),
        needed,
        _clock(args.minutes),
    )
    with closing(runner):
        for cell in _cells(args, runner, folders):
            _finish(cell, entries[cell.draft], store)
    store.save()
    if args.png is not None:
        for path in plot.draw(args.png, store.cells):
            print(f"wrote {path}", file=sys.stderr)
    print(table.render(store.cells))
    return _verdict(store)


def _finish(cell: Cell, entries: Sequence[Entry], store: Store) -> None:
    """Measure every entry of a cell. The cell is added to the store only if all entries have
    figures."""
    begun = time.monotonic()
    lines = [cell.line(entry) for entry in entries]
    if any(line is None for line in lines):
        return
    share = store.texts[cell.prompts, cell.temperature, ODD]
    store.cells.append(cell.where() | {"repeated": share, "methods": lines})
    said = ", ".join(f"{key} {value}" for key, value in cell.where().items())
    print(f"{said}: done in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def _cells(args: argparse.Namespace, runner: Runner, folders: dict[str, Path | None]) -> list[Cell]:
    return [
        Cell(runner, c, draft, path.stem, temperature, folders[draft])
        for c in args.c
        for path in args.prompts
        for draft in args.draft
        for temperature in args.temperature
    ]


def _line(entry: Entry, method: Method, run: Run, c: int) -> dict[str, Any]:
    passes = run["target_passes"]
    return {
        "method": entry.name,
        "setting": written(method),
        "gamma": method.gamma,
        "speedup": speedup(run, c),
        "tokens_per_pass": ratio(run["tokens"], passes),
        "rollback_rate": run["rollback_rate"],
        "hit_rate": ratio(run["branch_hits"], run["branch_rounds"]),
        "branch_rounds": run["branch_rounds"],
        "acceptance_rate": run["acceptance_rate"],
        "depth": ratio(run["draft_tokens"], passes),
        "answers": run["answers"],
        "tokens": run["tokens"],
        "identical_to_none": run["identical_to_none"],
        **({"chosen": run["chosen"]} if "chosen" in run else {}),
    }


def _parser() -> flags.Parser:
    parser = flags.Parser(prog="python -m bench.sweep", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--c", default="8,4,16", metavar="C,...", help="cost ratios, first the most important")
    add("--target", default="demo", metavar="DIR|demo|smollm2", help="default: %(default)s")
    add("--draft", default=",".join(DRAFTS), metavar="D,...", help="default: %(default)s")
    add("--prompts", required=True, metavar="F,...", help="JSON lines: prompt, question or turns")
    add("--temperature", default="0,0.8", metavar="T,...", help="default: %(default)s")
    add("--limit", type=int, metavar="N", help="only the first N prompts of each file")
    add("--tune-limit", type=int, metavar="N", help="tune on only the first N even prompts")
    add("--max-tokens", type=int, default=64, metavar="N", help="default: %(default)s")
    add("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    add("--ignore-eos", action="store_true", help="go on after an end-of-sequence token")
    add("--hrad", metavar="H,...", help="a classifier for each draft: adds specbranch with it")
    add("--minutes", type=float, metavar="M", help="begin no further setting after M minutes")
    add("--json", type=Path, required=True, metavar="OUT", help="every run; read back on restart")
    add("--png", type=Path, metavar="F", help="draw speed-ups, and rollback next to it")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Parse the flags, and refuse bad flags before any work begins."""
    args.c = [_ratio(word) for word in _words("--c", args.c)]
    args.temperature = [_number(word) for word in _words("--temperature", args.temperature)]
    args.draft = _words("--draft", args.draft)
    args.prompts = [Path(word) for word in _words("--prompts", args.prompts)]
    stems = [path.stem for path in args.prompts]
    if len(set(stems)) < len(stems):
        raise InvalidInputError(f"--prompts: expected files of different names, got {show(stems)}")
    given = _words("--hrad", args.hrad) if args.hrad is not None else []
    if given and len(given) != len(args.draft):
        raise InvalidInputError(
            f"--hrad: expected one for each of {len(args.draft)} drafts, got {len(given)}"
        )
    args.hrad = given
    for name in ("limit", "tune_limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InvalidInputError(f"--{name.replace('_', '-')}: expected at least 1, got {value}")
    if args.png is not None:
        picture.require()
        check_writable("--png", args.png)
    if str(args.json) == "-":
        raise InvalidInputError("--json: expected a file, which a restart reads, got '-'")
    check_writable("--json", args.json)


def _ratio(word: str) -> int:
    if not (word.isascii() and word.isdigit() and 1 <= int(word[:9]) <= MOST_C):
        raise InvalidInputError(f"--c: expected numbers from 1 to {MOST_C}, got {show(word)}")
    return int(word)


def _words(name: str, text: str) -> list[str]:
    found = [word.strip() for word in text.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise InvalidInputError(f"{name}: expected different words, got {show(text)}")
    return found


def _number(word: str) -> float:
    try:
        return SamplingParams(temperature=float(word)).temperature
    except ValueError:
        raise InvalidInputError(f"--temperature: expected a number, got {show(word)}") from None


def _split(args: argparse.Namespace) -> dict[tuple[str, str], list[str]]:
    """Return {(file, half): prompts}. The half is "even" or "odd"; prompts are numbered from 0."""
    found = {}
    for path in args.prompts:
        texts = read_prompts(path, args.limit)
        if len(texts) < 2:
            raise InvalidInputError(f"prompts: expected at least 2 from {str(path)!r}, got 1")
        found[path.stem, EVEN] = texts[::2][: args.tune_limit]
        found[path.stem, ODD] = texts[1::2]
    return found


def _store(args: argparse.Namespace, prompts: dict[tuple[str, str], list[str]]) -> Store:
    setup = {
        "max_tokens": args.max_tokens,
        "seed": args.seed,
        "ignore_eos": args.ignore_eos,
    }
    store = Store.open(args.json, setup)
    store.same("target", fingerprint(flags.target_folder(_one(args, "none"))))
    for draft in args.draft:
        folder = flags.draft_folder(_one(args, draft))
        store.same(f"draft {draft}", fingerprint(folder) if folder else draft)
    for (name, half), texts in prompts.items():
        store.same(f"prompts {name}, {half}", digest(texts))
    return store


def _entries(args: argparse.Namespace, at: int) -> tuple[Entry, ...]:
    more = with_classifier(args.hrad[at]) if args.hrad else ()
    return (*ENTRIES, *more)


def _one(args: argparse.Namespace, draft: str) -> argparse.Namespace:
    """Return the flags of a command whose only draft is `draft`."""
    return argparse.Namespace(
        target=args.target,
        draft=draft,
        dtype="auto",
        draft_dtype=None,
        activation_dtype="auto",
        device="cpu",
        draft_device=None,
        cpu_affinity=None,
        draft_cpu_affinity=None,
        threads=1,
        draft_threads=None,
        gamma=None,
        branches=None,
    )


def _params(args: argparse.Namespace, temperature: float) -> SamplingParams:
    return SamplingParams(
        temperature=temperature,
        seed=args.seed,
        max_tokens=args.max_tokens,
        ignore_eos=args.ignore_eos,
    )


def _clock(minutes: float | None) -> Callable[[], bool]:
    end = None if minutes is None else time.monotonic() + 60 * minutes
    return lambda: end is not None and time.monotonic() >= end


def _verdict(store: Store) -> int:
    """Return exit code 0, or 1 after printing the settings whose tokens differ from plain
    decoding."""
    wrong = sorted({key.setting for key, run in store.runs.items() if not run["identical_to_none"]})
    if wrong:
        print(f"tokens differ from plain decoding: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
