"""Runs each client, and reads the figures from the report that the client itself writes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sbrt import Engine, InvalidInputError, SamplingParams

from ..models.served import served
from .figures import Figures

# (log-likelihood of an ending, True if greedy decoding generates the ending)
Likelihood = tuple[float, bool]

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".venv-clients"
SECONDS = 600  # time limit of one run of a client
SHOWN = 400  # characters to show of the output of a client that failed


@dataclass(frozen=True)
class Run:
    """A run of a client: the server, the size of the load, and a folder for the client's output.

    base: the server's address. tokenizer: the target's folder, which has the tokenizer. requests:
    number of requests. tokens: the length of each prompt and of each answer.
    """

    base: str
    folder: Path
    tokenizer: Path
    requests: int
    tokens: int


def python_of(client: str) -> Path:
    """Return the path of a client's Python interpreter. The file need not exist."""
    return ENVIRONMENTS / client / "bin" / "python"


def call(client: str, words: Sequence[object], run: Run, **environment: str) -> str:
    """Run a program of a client's environment, and return its standard output.

    words: the program and its arguments. Raises InvalidInputError if the program fails.
    """
    program, *rest = words
    command = [str(python_of(client).with_name(str(program))), *map(str, rest)]
    home = {"HOME": str(run.folder), "HF_HOME": str(run.folder / "hf")}
    done = subprocess.run(
        command,
        cwd=run.folder,
        env=os.environ | home | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-SHOWN:]
        raise InvalidInputError(f"{client}: expected a run to its end, got: {said}")
    return done.stdout


def openai(run: Run) -> Figures:
    """Run openai-python. It sends completions and chats, whole and streamed."""
    script = Path(__file__).with_name("workers") / "openai_chat.py"
    found = json.loads(call("openai", ["python", script, run.base, run.requests, run.tokens], run))
    return Figures(**found)


def vllm(run: Run) -> Figures:
    """Run `vllm bench serve`. It reads the speculative counters from the server's /metrics."""
    words = [
        *("vllm", "bench", "serve", "--backend", "openai", "--base-url", run.base),
        *("--model", "demo", "--tokenizer", run.tokenizer, "--dataset-name", "random"),
        *("--random-input-len", run.tokens, "--random-output-len", run.tokens),
        *("--num-prompts", run.requests, "--num-warmups", 0, "--ignore-eos", "--temperature", 0),
        *("--save-result", "--result-dir", run.folder, "--result-filename", "report.json"),
    ]
    call("vllm", words, run, HF_HUB_OFFLINE="1")
    found = _json(run.folder / "report.json")
    return Figures(
        requests=found["completed"],
        prompt=found["total_input_tokens"],
        completion=found["total_output_tokens"],
        rounds=found["spec_decode_num_drafts"],
        drafted=found["spec_decode_draft_tokens"],
        accepted=found["spec_decode_accepted_tokens"],
    )


def guidellm(run: Run) -> Figures:
    """Run guidellm, one request after the other. Its report does not count drafts."""
    words = [
        *("guidellm", "run", "--profile", "kind=synchronous", "--disable-console"),
        *("--backend", f"kind=openai_http,target={run.base},model=demo"),
        *("--constraint", f"kind=max_requests,count={run.requests}"),
        "--data",
        f"kind=synthetic_text,prompt_tokens={run.tokens},output_tokens={run.tokens}",
        *("--tokenizer", f"kind=hf_auto,model={run.tokenizer}"),
        *("--output", f"kind=json,path={run.folder / 'report.json'}"),
    ]
    call("guidellm", words, run, HF_HUB_OFFLINE="1")
    [found] = _json(run.folder / "report.json")["benchmarks"]
    sums = found["metrics"]
    return Figures(
        requests=sums["request_totals"]["successful"],
        prompt=int(sums["prompt_token_count"]["successful"]["total_sum"]),
        completion=int(sums["output_token_count"]["successful"]["total_sum"]),
    )


def aiperf(run: Run) -> Figures:
    """Run AIPerf with two concurrent requests. It sums the `usage` fields of the answers."""
    words = [
        *("aiperf", "profile", "--model", "demo", "--url", run.base, "--streaming"),
        *("--endpoint-type", "completions", "--tokenizer", run.tokenizer, "--concurrency", 2),
        *("--request-count", run.requests, "--prompt-input-tokens-mean", run.tokens),
        *("--prompt-output-tokens-mean", run.tokens, "--extra-inputs", "ignore_eos:true"),
        *("--extra-inputs", "temperature:0", "--output-artifact-dir", run.folder / "report"),
        *("--no-gpu-telemetry", "--use-server-token-count", "--random-seed", 1),
    ]
    call("aiperf", words, run)
    found = _json(run.folder / "report" / "profile_export_aiperf.json")

    def total(name: str) -> int:
        return int(found[name]["avg"])

    return Figures(
        requests=total("request_count"),
        prompt=total("total_usage_prompt_tokens"),
        completion=total("total_usage_completion_tokens"),
        rounds=total("total_spec_decode_steps"),
        drafted=total("total_draft_tokens"),
        accepted=total("total_accepted_draft_tokens"),
    )


TASK = """task: sbrt_lines
dataset_path: json
dataset_kwargs:
  data_files: {{test: {prompts}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: {tokens}, temperature: 0.0}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


CHOICES = """task: sbrt_choices
dataset_path: json
dataset_kwargs:
  data_files: {{test: {prompts}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
ENDINGS = ("(self, other):\n", "(x, y):\n    return x", " and the other ones are", "]]))::\n", "(")


def lm_eval(run: Run) -> Figures:
    """Run lm-eval's local-completions on a generation task and on a multiple-choice task.

    A choice is scored by its log-likelihood. Both tasks run with and without speculation. Raises
    InvalidInputError if an answer, a score or a log-likelihood differs between the two runs. The
    log-likelihoods must also equal those that an engine in this process computes.
    """
    return Figures(requests=_generations(run) + _likelihoods(run))


def _likelihoods(run: Run) -> int:
    """Run the multiple-choice task on the server of `run` and on a server without speculation.

    Returns the number of requests to the server of `run`. Raises InvalidInputError if the results
    differ.
    """
    docs = [
        {"prompt": f"def f{i}", "choices": ENDINGS, "label": i % len(ENDINGS)}
        for i in range(run.requests)
    ]
    with served(("--method", "none")) as (host, port):
        plain = _chosen(replace(run, base=f"http://{host}:{port}"), docs)
    fast = _chosen(run, docs)
    with Engine.from_pretrained(run.tokenizer) as engine:
        own = [[_likelihood(engine, str(doc["prompt"]), end) for end in ENDINGS] for doc in docs]
    for name, found in (("with speculation", fast), ("in this process", (plain[0], own))):
        if found != plain:
            raise InvalidInputError(
                f"lm_eval: expected the log-likelihoods of plain decoding {name}, got others"
            )
    return len(docs) * len(ENDINGS)


def _chosen(run: Run, docs: Sequence[Mapping[str, Any]]) -> tuple[float, list[list[Likelihood]]]:
    """Return the score of the multiple-choice task, and the log-likelihoods that lm-eval received.

    The log-likelihoods are one list per document, with one entry per choice.
    """
    score, samples = _scored(run, CHOICES, docs, ())
    return score, [
        [(float(value), str(is_greedy) == "True") for [(value, is_greedy)] in sample["resps"]]
        for sample in samples
    ]


def _likelihood(engine: Engine, prompt: str, end: str) -> Likelihood:
    """Return the log-likelihood of `end` after `prompt`, and whether greedy decoding generates
    it."""
    whole, before = engine.encode(prompt + end), len(engine.encode(prompt))
    params = SamplingParams(max_tokens=0, prompt_logprobs=0)
    [output] = engine.generate([whole], params)
    positions = (output.prompt_logprobs or [])[before:]
    found = [position[i] for i, position in zip(whole[before:], positions, strict=True) if position]
    return sum(f.logprob for f in found), all(f.rank == 1 for f in found)


def _generations(run: Run) -> int:
    """Run the generation task with and without speculation, and compare the answers.

    Returns the number of requests to the server. Raises InvalidInputError if an answer differs.
    """
    prompts = [{"prompt": f"def f{i}(", "answer": "x"} for i in range(run.requests)]
    plain = _evaluated(run, prompts, "none")
    for prompt, answer in list(zip(prompts, plain[1], strict=True))[::2]:
        prompt["answer"] = answer  # half of the answers stay wrong, so the score is between 0 and 1
    plain, fast = (_evaluated(run, prompts, m) for m in ("none", "draft_model"))
    if plain != fast:
        raise InvalidInputError(
            f"lm_eval: expected one score by both methods, got {plain[0]} and {fast[0]}"
        )
    return 3 * run.requests


def _evaluated(run: Run, prompts: list[dict[str, str]], method: str) -> tuple[float, list[str]]:
    """Return the score of the generation task by `method`, and the answers in order."""
    more = ("--gen_kwargs", f"speculative={method}")
    score, samples = _scored(run, TASK, prompts, more)
    return score, [sample["resps"][0][0] for sample in samples]


def _scored(
    run: Run, task: str, docs: Sequence[Mapping[str, Any]], more: Sequence[object]
) -> tuple[float, list[dict[str, Any]]]:
    """Run a task on `docs`. Returns its score, and lm-eval's samples in the order of `docs`.

    task: the text of the task's YAML file. more: additional arguments of lm-eval, which tokenises
    through the server's routes.
    """
    folder = run.folder / f"lm-eval-{len(list(run.folder.iterdir()))}"
    folder.mkdir()
    lines = folder / "prompts.jsonl"
    lines.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (folder / "task.yaml").write_text(task.format(prompts=lines, tokens=run.tokens))
    name = task.split()[1]
    model = f"base_url={run.base}/v1/completions,model=demo"
    words = [
        *("lm-eval", "run", "--model", "local-completions", "--model_args", model),
        *("--tasks", name, "--include_path", folder, "--log_samples"),
        *("--output_path", folder, *more),
    ]
    call("lm_eval", words, run, HF_HUB_OFFLINE="1")
    [results], [samples] = folder.rglob("results_*.json"), folder.rglob("samples_*.jsonl")
    found = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda s: s["doc_id"])
    scores = _json(results)["results"][name]
    return next(scores[key] for key in ("exact_match,none", "acc,none") if key in scores), found


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


PROGRAMS: dict[str, Callable[[Run], Figures]] = {
    "openai": openai,
    "vllm": vllm,
    "guidellm": guidellm,
    "aiperf": aiperf,
    "lm_eval": lm_eval,
}
