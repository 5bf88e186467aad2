"""Train the demo pair: a target, a draft distilled on it, and a deliberately poor draft.

    python tools/train_demo.py --stage target --minutes 60
    python tools/train_demo.py --stage draft  --minutes 15
    python tools/train_demo.py --stage poor   --minutes 5
    python tools/train_demo.py --stage export

Every stage resumes from `--work` (default `build/demo`) where it was stopped: `--minutes` is the length of the
whole schedule, and the learning rate follows the share of it that has been spent. `export` writes three
Hugging Face folders below `sbrt/demo`, measures losses and agreement, and writes the model card.

Text: the Python files of the standard library (tests left out) and of torch, read from this very interpreter.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import random
import sys
import sysconfig
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCAB = 4096
CONTEXT = 1024
END = "<|endoftext|>"


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-shaped decoder with tied embeddings."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int


SHAPES = {
    "target": Shape(256, 6, 8, 4, 768),
    "draft": Shape(128, 2, 4, 2, 288),
    "poor": Shape(48, 1, 2, 1, 128),
}


# --- text ---------------------------------------------------------------------------------------------------


def python_files() -> list[Path]:
    """Standard library without tests, then torch's own Python, in a fixed order."""
    roots = [Path(sysconfig.get_paths()["stdlib"]), Path(torch.__file__).parent]
    skip = {"test", "tests", "idle_test", "site-packages", "lib2to3", "__pycache__", "testing"}
    files = []
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            parts = set(path.relative_to(root).parts[:-1])
            if not parts & skip and path.stat().st_size < 300_000:
                files.append(path)
    return files


def documented_functions(source: str) -> list[str]:
    """Functions with a docstring, dedented, as documents of their own: the shape of a completion prompt."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    lines = source.splitlines(keepends=True)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and node.end_lineno:
            text = "".join(lines[node.lineno - 1 : node.end_lineno])
            pad = " " * node.col_offset
            text = "".join(row.removeprefix(pad) for row in text.splitlines(keepends=True))
            if 120 < len(text) < 3000:
                found.append(text)
    return found


def train_tokenizer(texts: list[str], path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))


def load_tokens(work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out token ids (uint16), tokenised once and cached in `work`."""
    from tokenizers import Tokenizer

    cache = work / "tokens.npz"
    if not cache.exists():
        texts = [p.read_text(encoding="utf-8", errors="ignore") for p in python_files()]
        functions = [f for text in texts for f in documented_functions(text)]
        random.Random(0).shuffle(texts)
        held, texts = texts[:40], texts[40:]
        held_text = "".join(held)
        functions = [f for f in functions if f[:80] not in held_text]
        if not (work / "tokenizer.json").exists():
            train_tokenizer(texts, work / "tokenizer.json")
        tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
        documents = texts + functions
        random.Random(1).shuffle(documents)

        def encode(docs: list[str]) -> np.ndarray:
            ids: list[int] = []
            for encoding in tokenizer.encode_batch(docs):
                ids.extend(encoding.ids)
                ids.append(0)
            return np.array(ids, dtype=np.uint16)

        np.savez(cache, train=encode(documents), held=encode(held))
    data = np.load(cache)
    return data["train"], data["held"]


# --- model --------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        d = s.hidden // s.heads
        self.s, self.d = s, d
        self.input_layernorm = nn.RMSNorm(s.hidden, eps=1e-5)
        self.post_attention_layernorm = nn.RMSNorm(s.hidden, eps=1e-5)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(s.hidden, s.heads * d, bias=False),
                "k_proj": nn.Linear(s.hidden, s.kv_heads * d, bias=False),
                "v_proj": nn.Linear(s.hidden, s.kv_heads * d, bias=False),
                "o_proj": nn.Linear(s.heads * d, s.hidden, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(s.hidden, s.inner, bias=False),
                "up_proj": nn.Linear(s.hidden, s.inner, bias=False),
                "down_proj": nn.Linear(s.inner, s.hidden, bias=False),
            }
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, past: list[Tensor] | None) -> Tensor:
        b, t, _ = x.shape
        h = self.input_layernorm(x)
        q, k, v = (
            self.self_attn[name](h).view(b, t, -1, self.d).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if past is not None:
            if past:
                k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
            past[:] = [k, v]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1, enable_gqa=True)
        x = x + self.self_attn["o_proj"](y.transpose(1, 2).reshape(b, t, -1))
        h = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Decoder(nn.Module):
    """Logits [batch, time, VOCAB] of token ids [batch, time]; the parameter names are Llama's."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.embed_tokens = nn.Embedding(VOCAB, s.hidden)
        self.layers = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = nn.RMSNorm(s.hidden, eps=1e-5)
        d = s.hidden // s.heads
        inv = 10000.0 ** (-torch.arange(0, d, 2).float() / d)
        angles = torch.outer(torch.arange(CONTEXT).float(), inv).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 if p.shape[0] == VOCAB else p.shape[1] ** -0.5 / 2)
        for block in self.layers:
            nn.init.zeros_(block.self_attn["o_proj"].weight)
            nn.init.zeros_(block.mlp["down_proj"].weight)

    def forward(self, ids: Tensor, past: list[list[Tensor]] | None = None) -> Tensor:
        start = past[0][0].shape[2] if past and past[0] else 0
        cos, sin = (t[start : start + ids.shape[1]] for t in (self.cos, self.sin))
        x = self.embed_tokens(ids)
        for i, block in enumerate(self.layers):
            x = block(x, cos, sin, past[i] if past is not None else None)
        return F.linear(self.norm(x), self.embed_tokens.weight)


@torch.no_grad()
def continue_batch(model: Decoder, prompts: Tensor, steps: int, temperature: float) -> Tensor:
    """Extend [batch, time] by `steps` tokens; greedy at temperature 0."""
    past: list[list[Tensor]] = [[] for _ in model.layers]
    ids, new = prompts, prompts
    for _ in range(steps):
        logits = model(new, past)[:, -1]
        if temperature:
            new = torch.multinomial(F.softmax(logits / temperature, -1), 1)
        else:
            new = logits.argmax(-1, keepdim=True)
        ids = torch.cat([ids, new], 1)
    return ids


# --- training -----------------------------------------------------------------------------------------------


class Schedule:
    """A stage of fixed length in minutes that survives being stopped: state file, learning rate, progress."""

    def __init__(self, args: argparse.Namespace, model: Decoder, stage: str, peak: float) -> None:
        matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
        others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
        self.model, self.path, self.seconds = model, args.work / f"{stage}.pt", args.minutes * 60
        self.optimizers = [
            torch.optim.Muon(matrices, lr=peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=peak * 1.5, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.peaks = [peak, peak * 1.5]
        self.spent, self.step, self.tokens = 0.0, 0, 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.spent, self.step, self.tokens = state["spent"], state["step"], state["tokens"]
        self.last = self.saved = time.monotonic()

    def running(self) -> bool:
        return self.spent < self.seconds

    def update(self, loss: Tensor, tokens: int, label: str) -> None:
        share = self.spent / self.seconds
        scale = min(1.0, (self.step + 1) / 40) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        now = time.monotonic()
        self.spent, self.last = self.spent + now - self.last, now
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        if self.step % 20 == 0:
            print(
                f"{label} step {self.step} tokens {self.tokens} loss {loss.item():.4f} "
                f"{self.spent / 60:.1f}/{self.seconds / 60:.0f} min",
                file=sys.stderr,
                flush=True,
            )
        if now - self.saved > 120 or not self.running():
            self.save()
            self.saved = now

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "spent": self.spent,
            "step": self.step,
            "tokens": self.tokens,
        }
        torch.save(state, self.path.with_suffix(".tmp"))
        self.path.with_suffix(".tmp").replace(self.path)


class Windows:
    """Random windows of the training text; every position once before any is seen again (offset by epoch)."""

    def __init__(self, tokens: np.ndarray, length: int, seed: int) -> None:
        self.tokens, self.length, self.rng = tokens, length, np.random.default_rng(seed)
        self.order: list[int] = []

    def batch(self, rows: int) -> Tensor:
        while len(self.order) < rows:
            first = int(self.rng.integers(self.length))
            starts = np.arange(first, len(self.tokens) - self.length - 1, self.length)
            self.order.extend(self.rng.permutation(starts).tolist())
        picked = [self.order.pop() for _ in range(rows)]
        rows_ = [self.tokens[i : i + self.length + 1].astype(np.int64) for i in picked]
        return torch.from_numpy(np.stack(rows_))


def load_model(work: Path, name: str) -> Decoder:
    model = Decoder(SHAPES[name])
    model.load_state_dict(torch.load(work / f"{name}.pt", weights_only=True)["model"])
    return model.eval()


def train_target(args: argparse.Namespace, train: np.ndarray) -> None:
    model = Decoder(SHAPES["target"])
    schedule = Schedule(args, model, "target", args.lr or 3e-3)
    # Attention over short windows costs half; every fourth step keeps the whole context in view.
    whole = Windows(train, CONTEXT, seed=schedule.step)
    halves = Windows(train, CONTEXT // 2, seed=schedule.step + 1)
    while schedule.running():
        ids = whole.batch(4) if schedule.step % 4 == 3 else halves.batch(8)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.float().reshape(-1, VOCAB), ids[:, 1:].reshape(-1))
        schedule.update(loss, ids[:, 1:].numel(), "target")


def train_student(args: argparse.Namespace, train: np.ndarray, name: str) -> None:
    """Distil: KL to the target's law on its own continuations (half greedy, half sampled) and on the text."""
    teacher = load_model(args.work, "target")
    for p in teacher.parameters():
        p.requires_grad_(False)
    model = Decoder(SHAPES[name])
    schedule = Schedule(args, model, name, args.lr or 4e-3)
    windows = Windows(train, 256, seed=100 + schedule.step)
    pool: list[Tensor] = []
    while schedule.running():
        if schedule.spent > 0.2 * schedule.seconds and schedule.step % 8 == 0 and len(pool) < 400:
            start = windows.batch(32)[:, :96]
            pool.append(continue_batch(teacher, start, 128, random.choice([0.0, 0.0, 0.8])))
        ids = windows.batch(16)
        if pool and schedule.step % 3:
            ids = random.choice(pool)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            with torch.no_grad():
                law = F.softmax(teacher(ids[:, :-1]).float(), -1)
            logits = model(ids[:, :-1])
        loss = -(law * F.log_softmax(logits.float(), -1)).sum(-1).mean()
        schedule.update(loss, ids[:, 1:].numel(), name)


# --- export -------------------------------------------------------------------------------------------------


@torch.no_grad()
def held_out_loss(model: Decoder, held: np.ndarray) -> float:
    windows = Windows(held, CONTEXT, seed=0)
    losses = []
    for _ in range(8):
        ids = windows.batch(4)
        losses.append(F.cross_entropy(model(ids[:, :-1]).reshape(-1, VOCAB), ids[:, 1:].reshape(-1)))
    return torch.stack(losses).mean().item()


@torch.no_grad()
def agreement(target: Decoder, draft: Decoder, prompts: list[list[int]], steps: int = 64) -> float:
    """Share of positions of the target's own greedy output where the draft's first choice is the same."""
    same = total = 0
    for prompt in prompts:
        ids = continue_batch(target, torch.tensor([prompt]), steps, 0.0)
        guess = draft(ids[:, :-1]).argmax(-1)[0, len(prompt) - 1 :]
        same += int((guess == ids[0, len(prompt) :]).sum())
        total += steps
    return same / total


def export_folder(work: Path, name: str, out: Path) -> Decoder:
    from safetensors.torch import save_file

    model, s = load_model(work, name), SHAPES[name]
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{k}": v.to(torch.bfloat16) for k, v in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "tokenizer.json").write_bytes((work / "tokenizer.json").read_bytes())
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": s.hidden,
        "intermediate_size": s.inner,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.hidden // s.heads,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": 0, "eos_token_id": 0}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "model_max_length": CONTEXT}
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n")
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(torch.bfloat16))
    return model


def export(args: argparse.Namespace, held: np.ndarray) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(args.work / "tokenizer.json"))
    prompts: list[list[int]] = []
    if args.prompts:
        rows = [json.loads(line) for line in Path(args.prompts).read_text().splitlines()]
        prompts = [tokenizer.encode(row["prompt"]).ids for row in rows[: args.limit]]
    models = {n: export_folder(args.work, n, args.out / n) for n in SHAPES if (args.work / f"{n}.pt").exists()}
    card = ["# The demo pair", "", __doc__.split("Text: ")[1].strip(), ""]
    card += ["| model | shape | parameters | tokens seen | held-out loss | agreement |", "|---|---|---|---|---|---|"]
    for name, model in models.items():
        state = torch.load(args.work / f"{name}.pt", weights_only=True)
        count = sum(p.numel() for p in model.parameters())
        same = agreement(models["target"], model, prompts) if prompts and name != "target" else math.nan
        shape = ", ".join(f"{k} {v}" for k, v in asdict(SHAPES[name]).items())
        loss = held_out_loss(model, held)
        agree = "-" if math.isnan(same) else f"{same:.1%}"
        card.append(f"| {name} | {shape} | {count:,} | {state['tokens']:,} | {loss:.3f} | {agree} |")
    card += [
        "",
        "Agreement: share of tokens of the target's own greedy output (64 tokens a prompt, HumanEval) where the",
        "draft's first choice is the target's token. Loss: nats a token on 40 files kept out of training.",
        "Made by `tools/train_demo.py`. Weights: Apache-2.0.",
    ]
    (args.out / "README.md").write_text("\n".join(card) + "\n")
    print("\n".join(card))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=["target", "draft", "poor", "export"], required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the stage's whole schedule")
    parser.add_argument("--work", type=Path, default=Path("build/demo"))
    parser.add_argument("--out", type=Path, default=Path("sbrt/demo"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lr", type=float, default=None)
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16 (fast where the CPU has it)")
    parser.add_argument("--prompts", help="JSON lines with `prompt`, to measure agreement at export")
    parser.add_argument("--limit", type=int, default=40)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    train, held = load_tokens(args.work)
    if args.stage == "target":
        train_target(args, train)
    elif args.stage == "export":
        export(args, held)
    else:
        train_student(args, train, args.stage)


if __name__ == "__main__":
    main()
