"""Contract under test, on a CUDA device: flash attention over a ring equals attention in plain
torch. A wide piece of a prompt is captured as one graph. Wide pieces leave the same KV as narrow
pieces, up to rounding, and the same bits when repeated. Memory that is not in use is not
written."""

import pytest
import torch

from sbrt import Engine, SamplingParams
from sbrt.gpu.lane import GpuLane
from sbrt.gpu.ops import TRITON
from sbrt.gpu.prefill import Lengths, flash_for, flash_plain, prefill_attention
from sbrt.gpu.recorder import CudaRecorder
from sbrt.gpu.store import LaneShape
from sbrt.gpu.weights import random_weights
from sbrt.model.config import ModelConfig
from sbrt.model.demo_pair import demo_folder
from sbrt.triton_kernels import state

pytestmark = pytest.mark.gpu
CONFIG = ModelConfig(
    architecture="LlamaForCausalLM", hidden=512, inner=1408, layers=3, heads=8, kv_heads=4,
    head_dim=64, vocab=5003, rms_eps=1e-5, rope_theta=5e5, tied=True, max_positions=2048,
)  # fmt: skip
DTYPE = torch.bfloat16
# Largest difference of two results, relative to the largest value. Both results are rounded to
# bfloat16, but their sums have different orders.
NEARLY = 0.03


@pytest.fixture(scope="module")
def device():
    return torch.device("cuda")


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (65, 65), (128, 700), (512, 512), (300, 1337)])
def test_flash_attention_sees_what_its_twin_sees(device, rows, keys, window):
    generator = torch.Generator(device).manual_seed(rows + keys)
    flash = flash_for("torch", device, DTYPE, 64)
    qkv = torch.randn(512, 16, 64, generator=generator, device=device).to(DTYPE)
    k, v = torch.randn(2, 4, 1500, 64, generator=generator, device=device).to(DTYPE)
    k[:, keys:], v[:, keys:] = float("nan"), float("nan")
    starts = torch.tensor([0, rows, 0, keys], dtype=torch.int32, device=device)
    lengths, out = Lengths(starts, 512, 1500, window), torch.empty(512, 8, 64, device=device)
    prefill_attention(qkv[:, :8], k, v, lengths=lengths, flash=flash, out=out)
    plain = [x.cpu() for x in (qkv[:, :8], k.transpose(0, 1), v.transpose(0, 1))]
    want = flash_plain(*plain, Lengths(starts.cpu(), 512, 1500, window))[:rows].float()
    assert (out[:rows].cpu() - want).abs().max() < NEARLY * want.abs().max()


class Scene:
    """A target lane, and the graphs by which the test feeds a prompt in pieces."""

    def __init__(self, device):
        weights = random_weights(CONFIG, DTYPE, device)
        self.recorder = CudaRecorder(device)
        flash = flash_for("torch", device, DTYPE, CONFIG.head_dim)
        shape = LaneShape(2048, 64, 0, 0, False, False)
        self.lane = GpuLane(weights, shape, TRITON, self.recorder, 16, None, flash)
        self.table = state.words(state.Batch(), device)
        self.pieces = {p.rows: p for p in self.lane.forward(self.table.data_ptr(), False)}

    def fed(self, tokens, width):
        """Fill the KV ring with NaN, then process the tokens in pieces of `width` rows. Return a
        copy of the KV ring."""
        kv = self.lane.buffers.kv
        kv.fill_(float("nan"))
        for first in range(0, len(tokens), width):
            part = tokens[first : first + width]
            table = state.Batch(head=(first,), n=len(part))
            for i, token in enumerate(part):
                row = table.row[i]
                row.position, row.token, row.branch, row.slot = first + i, token, -1, first + i
                row.chain = state.mask_of((1 << min(i + 1, 64)) - 1)
            self.table.copy_(state.words(table))
            torch.cuda.synchronize()
            with torch.cuda.stream(self.recorder.stream):
                self.pieces[width].replay()
            torch.cuda.synchronize()
        return kv.clone()


@pytest.mark.parametrize("length", [64, 65, 600, 1024])
def test_wide_pieces_leave_what_narrow_ones_leave(device, length):
    scene = Scene(device)
    assert sorted(scene.pieces) == [64, 128, 256, 512]
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(0, CONFIG.vocab, (length,), generator=generator).tolist()
    want, got, again = (scene.fed(tokens, width) for width in (64, 512, 512))
    assert torch.equal(got.view(torch.int16), again.view(torch.int16))
    for kv in (want, got):
        assert torch.isnan(kv[..., length:, :]).all()
    error = (got - want)[..., :length, :].float().abs().max()
    assert error < NEARLY * want[..., :length, :].float().abs().max()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_long_prompt_is_answered_as_plain_decoding_does(temperature):
    """Every method gives the same answer to a prompt of 700 tokens. The demo pair reads the prompt
    in pieces of at most 512 rows."""
    params = SamplingParams(temperature=temperature, seed=2, max_tokens=64, ignore_eos=True)
    prompt = [1 + i * i % 2000 for i in range(700)]
    pair = [demo_folder(name) for name in ("target", "draft")]
    with Engine.from_pretrained(*pair, device="cuda", dtype="bfloat16") as engine:
        found = [
            engine.generate(prompt, params, method=method)[0].outputs[0].token_ids
            for method in ("none", "specbranch", "draft_model", "none")
        ]
    assert len(found[0]) == 64
    assert found.count(found[0]) == 4
