"""Contract under test: the tokenizer of a GGUF file gives the same ids as llama.cpp, which
`make peers` installs."""

import pytest

from sbrt.model.gguf.splits import SPLITS
from sbrt.model.tokenizer import Tokenizer

process = pytest.importorskip("bench.peers.process", reason="benches run from the checkout")
from bench.peers.lines import GGUF, PeerError  # noqa: E402
from bench.peers.settings import LLAMA, WORKERS  # noqa: E402

pytestmark = pytest.mark.exact
LINES, LINES_OF_A_KIND, BATCH = 10_000, 1_000, 500


@pytest.fixture
def theirs():
    """theirs(path): returns a function that gives llama.cpp's ids for a list of texts."""
    workers = []

    def opened(path):
        try:
            workers.append(process.Worker(LLAMA.python(), WORKERS / LLAMA.worker))
        except PeerError as error:
            pytest.skip(str(error))
        workers[-1].ask("open", folder=str(path), draft=None, dtype=GGUF, mode="vocabulary",
                        threads=1, build="")  # fmt: skip
        return lambda texts: workers[-1].ask("tokenize", texts=texts)["ids"]

    yield opened
    for worker in workers:
        worker.close()


def different(path, read, texts):
    """Return the texts whose ids differ from those of llama.cpp."""
    ours, found = Tokenizer(path), []
    for at in range(0, len(texts), BATCH):
        batch = texts[at : at + BATCH]
        pairs = zip(batch, read(batch), strict=True)
        found += [text for text, ids in pairs if ours.encode(text, 10**6) != ids]
    return found


def test_the_real_file(real, files, theirs):
    texts = files.mixed_lines(LINES)
    assert different(real, theirs(real), texts) == []


@pytest.mark.parametrize("pre", [*SPLITS, "scores"])
def test_every_kind(files, theirs, tmp_path, pre):
    path = files.write(tmp_path / "m.gguf", words=pre)
    texts = files.mixed_lines(LINES_OF_A_KIND)
    # We split the text before U+3000, as deepseek's tokenizer.json does.
    if pre == "deepseek-llm":
        texts = [text for text in texts if "  \u3000" not in text]
    assert different(path, theirs(path), texts) == []
