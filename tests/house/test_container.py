"""Contract under test: the container recipe copies existing files, runs without root's rights,
reports its health, and starts the command with existing flags."""

import json
import re
from pathlib import Path, PurePosixPath

from sbrt.tools import cli

ROOT = Path(__file__).parents[2]


def instructions():
    """Return (word, rest) of each instruction, without comments; continued lines are joined."""
    lines = [x for x in (ROOT / "Dockerfile").read_text().splitlines() if not x.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(" ", 1)) for line in joined.splitlines() if line]


def of(word):
    return [rest for name, rest in instructions() if name == word]


def last_stage():
    found = instructions()
    return found[max(i for i, (name, _) in enumerate(found) if name == "FROM") :]


def test_it_runs_as_a_user_without_rights():
    [user] = [rest for name, rest in last_stage() if name == "USER"]
    assert user not in ("root", "0")
    made = [rest for name, rest in last_stage() if name == "RUN"]
    assert any(f"useradd --create-home --uid 1000 {user}" in rest for rest in made)
    names = [name for name, _ in last_stage()]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "USER" not in names[names.index("USER") + 1 :]


def test_what_runs_is_the_command_itself_and_gets_signals():
    """A shell around the command would not pass SIGTERM on."""
    [entry], [arguments] = of("ENTRYPOINT"), of("CMD")
    words = [*json.loads(entry), *json.loads(arguments)]
    assert words[0] == "sbrt"
    args = cli._parser().parse_args(words[1:])
    assert (args.host, args.port) == ("0.0.0.0", int(of("EXPOSE")[0]))


def test_its_health_is_the_server_s():
    [health] = of("HEALTHCHECK")
    program = json.loads(health.split("CMD ", 1)[1])
    assert program[:2] == ["python", "-c"]
    compile(program[2], "health", "exec")
    assert f"http://127.0.0.1:{of('EXPOSE')[0]}/health" in program[2]


def test_what_it_copies_is_there_and_not_left_out():
    ignored = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    needed = ["pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "constraints.txt"]
    needed += ["csrc/core/check.h", "sbrt/demo/target/config.json", "triton_kernels/fields.py"]
    for name in needed:
        assert (ROOT / name).exists()
        parts = [PurePosixPath(name), *PurePosixPath(name).parents]
        assert not any(part.match(pattern) for part in parts for pattern in ignored if part.name)
    assert "constraints.txt" in " ".join(of("COPY"))
