"""The demo pair's text: Python files of the running interpreter and of torch, as token ids."""

from __future__ import annotations

import ast
import random
import sysconfig
from pathlib import Path

import numpy as np
import torch

VOCAB = 4096
END = "<|endoftext|>"
FUNCTIONS = 2  # times that each documented function appears on its own


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


def documented_functions(source: str) -> list[tuple[str, str]]:
    """Functions with a docstring and a body, dedented and cut in two after the docstring.

    Prompts end there, with a line break. In the whole text that line break would be one token with
    the body's indentation. A function with only a docstring would teach that the text ends there.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    lines = source.splitlines(keepends=True)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or len(node.body) < 2:
            continue
        if ast.get_docstring(node) and node.end_lineno:
            pad = " " * node.col_offset
            body = (node.body[0].end_lineno or node.lineno) - node.lineno + 1
            rows = [r.removeprefix(pad) for r in lines[node.lineno - 1 : node.end_lineno]]
            if 120 < sum(map(len, rows)) < 3000:
                found.append(("".join(rows[:body]), "".join(rows[body:])))
    return found


def train_tokenizer(texts: list[str], path: Path) -> None:
    """Train a byte-level BPE of VOCAB tokens and write its tokenizer.json."""
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
        functions = [f for f in functions if f[0][:80] not in held_text] * FUNCTIONS
        if not (work / "tokenizer.json").exists():
            train_tokenizer(texts, work / "tokenizer.json")
        tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
        documents = [(text,) for text in texts] + functions
        random.Random(1).shuffle(documents)

        def encode(docs: list[tuple[str, ...]]) -> np.ndarray:
            ids: list[int] = []
            for parts in docs:
                for encoding in tokenizer.encode_batch(list(parts)):
                    ids.extend(encoding.ids)
                ids.append(0)
            return np.array(ids, dtype=np.uint16)

        np.savez(cache, train=encode(documents), held=encode([(text,) for text in held]))
    data = np.load(cache)
    return data["train"], data["held"]
