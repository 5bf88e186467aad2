"""Faults that tests insert into sbrt's code. A fault replaces a text that occurs once in its file,
and names tests of `make test` that must then fail."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """name: what is wrong. tests: files below tests/, or one test of a file as FILE::TEST."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


FAULTS = (
    # ---- csrc/ops
    Fault(
        "a tie of the maximum goes to the highest id",
        "csrc/ops/choose.cc",
        "s == score[place - 1] && column < at[place - 1]",
        "s == score[place - 1] && column > at[place - 1]",
        ("ops/test_choose.py",),
    ),
    Fault(
        "the tail of a row, shorter than a vector, is looked through with another comparison",
        "csrc/ops/choose_simd.inc",
        "if (x[from] >= bar) return from;",
        "if (x[from] > bar) return from;",
        ("ops/test_choose.py",),
    ),
    Fault(
        "min_p drops a token whose weight is exactly its bound",
        "csrc/ops/filter.cc",
        "return weight_[i] >= s_.min_p;",
        "return weight_[i] > s_.min_p;",
        ("ops/test_filter.py",),
    ),
    Fault(
        "top_k and top_p drop the last of equal logits",
        "csrc/ops/filter.cc",
        "ids_[i] <= id); });",
        "ids_[i] < id); });",
        ("ops/test_filter.py",),
    ),
    Fault(
        "a drafted row's frequency penalty does not count its own ancestors",
        "csrc/ops/shaping.cc",
        "counts.output[t] + extra[t]);",
        "counts.output[t]);",
        ("decode/test_edge_grid.py",),
    ),
    Fault(
        "a row of a model with a window sees one position more",
        "csrc/ops/attention.cc",
        "row.position - a.window + 1);",
        "row.position - a.window);",
        ("model/test_families.py::test_a_setting",),
    ),
    Fault(
        "norms that multiply by 1 + weight multiply by the weight where it is bfloat16",
        "csrc/model/weights.cc",
        "place.offset + rounded(t.at(i), formats_.others);",
        "rounded(place.offset + t.at(i), formats_.others);",
        ("model/test_families.py::test_bfloat16_weights_with_biases_and_norms",),
    ),
    Fault(
        "global layers turn by the rope of local ones",
        "csrc/model/decoder.cc",
        "kinds.push_back(kind(c, s, c.local.empty() ? c.window : 0, false));",
        "kinds.push_back(kind(c, s, c.local.empty() ? c.window : 0, !c.local.empty()));",
        ("model/test_families.py::test_a_setting",),
    ),
    Fault(
        "integer rows are gated by silu in a model of gelu",
        "csrc/ops/matmul.cc",
        "a.gate == Gate::gelu ? ",
        "a.gate == Gate::gelu && !integer ? ",
        ("model/test_quantised.py::test_rows_of_8_bits_stay_near_those_of_float32",),
    ),
    Fault(
        "keys that lie before the ring's wrap end one slot early",
        "csrc/ops/attention.cc",
        "std::min(n, begin + ring.capacity - slot);",
        "std::min(n, begin + ring.capacity - slot - 1);",
        (
            "model/test_rows.py::test_families",
            "model/test_rows.py::test_a_path_of_any_length_from_any_head",
        ),
    ),
    Fault(
        "siblings of a tree share a key beyond the root",
        "csrc/ops/attention.cc",
        "std::max<int64_t>(0, rows.head[seat] - a.first);",
        "std::max<int64_t>(0, rows.head[seat] - a.first + 2);",
        ("model/test_rows.py",),
    ),
    Fault(
        "a group of int8 weights is scaled to 128 steps",
        "csrc/ops/quantise.cc",
        "kept(f.scales, most / 127.0f)",
        "kept(f.scales, most / 128.0f)",
        ("ops/test_matmul.py", "ops/test_integers.py", "model/test_quantised.py"),
    ),
    # ---- csrc/core, csrc/ring
    Fault(
        "a weight half way between two of bfloat16 is rounded up, not to even",
        "csrc/core/dtype.h",
        "bits += 0x7fffu + ((bits >> 16) & 1u);",
        "bits += 0x8000u;",
        ("model/test_weights.py", "ops/test_matmul.py"),
    ),
    Fault(
        "a ring one slot too small is let through",
        "csrc/ring/ring.cc",
        "check<InvalidInput>(s.capacity >= s.window + kSlots - 1,",
        "check<InvalidInput>(s.capacity >= s.window + kSlots - 2,",
        ("ring/test_ring.py",),
    ),
    Fault(
        "a moved key keeps its first element",
        "csrc/ring/ring.cc",
        "for (int i = 0; i < shape_.head_dim; ++i) place[i * kKeyPanel] = key[i * kKeyPanel];",
        "for (int i = 1; i < shape_.head_dim; ++i) place[i * kKeyPanel] = key[i * kKeyPanel];",
        ("ring/test_ring.py", "ring/test_ring_machine.py"),
    ),
    # ---- csrc/exec
    Fault(
        "a published value is not ordered behind what was written before it",
        "csrc/exec/cpu/pause.h",
        "a.store(value, std::memory_order_seq_cst);",
        "a.store(value, std::memory_order_relaxed);",
        ("exec/test_exec.py::test_thread_sanitizer_has_nothing_to_say",),
    ),
    Fault(
        "in simulated time a wait does not wait",
        "csrc/exec/sim/exec_sim.cc",
        "clock_ = std::max(clock_, c.event->time());",
        "clock_ = std::max(clock_, int64_t{0});",
        ("decode/test_clock.py",),
    ),
    Fault(
        "the order checker forgets reads that a write must follow",
        "csrc/exec/order.cc",
        "if (writes && last[s].read.at > clock[s])",
        "if (writes && reads && last[s].read.at > clock[s])",
        ("exec/test_order.py", "decode/test_order.py"),
    ),
    # ---- csrc/model
    Fault(
        "yarn keeps a frequency that is beyond its ramp",
        "csrc/model/rope_table.cc",
        "if (low == high) high += 0.001;",
        "high += 1.0;",
        ("model/test_families.py::test_a_setting",),
    ),
    # ---- many sequences
    Fault(
        "penalties count the tokens of the first seat",
        "csrc/ops/choose.h",
        "return seats[rows->row[i].seat]; }",
        "return seats[rows->row[i].seat * 0]; }",
        ("decode/test_crowd.py",),
    ),
    Fault(
        "rows of two seats are taken for rows that share keys",
        "csrc/ops/attention.cc",
        "if (a.first != b.first || rows.row[k].seat != seat) return 0;",
        "if (a.first != b.first) return 0;",
        ("engine/test_batch.py",),
    ),
    Fault(
        "a mask is read against the head of the first seat",
        "csrc/ops/attention.cc",
        "const int64_t head = a.rows->head[row.seat], begin",
        "const int64_t head = a.rows->head[0], begin",
        ("engine/test_batch.py",),
    ),
    Fault(
        "a seat takes its former owner's KV for its own, whatever the prompts",
        "csrc/decode/pump.cc",
        "const int64_t same = r_.same_tokens(i, prompt.data(), std::min(kept.target, fed));",
        "const int64_t same = std::min(kept.target, fed);",
        ("decode/test_crowd.py",),
    ),
    Fault(
        "the accepted path counts as KV that is in its place",
        "csrc/decode/seat_table.cc",
        "return {ran ? c.head - c.outcome.n : c.target_have",
        "return {ran ? c.head : c.target_have",
        ("decode/test_crowd.py", "engine/test_prefixes.py"),
    ),
    Fault(
        "the tokens of a seat's former owner go to the new one",
        "csrc/decode/pump.cc",
        "!seat.sequence.live() || round < seat.first_round) return false;",
        "!seat.sequence.live()) return false;",
        ("decode/test_crowd.py", "engine/test_batch.py"),
    ),
    Fault(
        "a node that found no room in the batch may stand",
        "csrc/round/select_op.h",
        "if (next == 0 || !c.verified.has(next)) return;",
        "if (next == 0) return;",
        ("decode/test_crowd.py",),
    ),
    Fault(
        "a serial burst takes the chain of those that wait",
        "csrc/round/select_op.h",
        "if (!awaits_burst(c)) return;",
        "",
        ("decode/test_crowd.py",),
    ),
    Fault(
        "a drafting sequence goes on after its last step where others have more",
        "csrc/round/grow_op.h",
        "  if (step.is_over) return;\n",
        "",
        ("decode/test_crowd.py",),
    ),
    # ---- csrc/round and csrc/decode
    Fault(
        "penalties do not count the target's own token of a round",
        "csrc/round/select_op.h",
        "for (int i = 0; i < (o.error ? o.n : o.n + 1); ++i)",
        "for (int i = 0; i < o.n; ++i)",
        ("decode/test_edge_grid.py",),
    ),
    Fault(
        "a chain may be one node deeper than what may still be emitted",
        "csrc/round/select_op.h",
        "c.limit - c.head - 2);",
        "c.limit - c.head - 1);",
        (
            "decode/test_engine_core.py::test_max_tokens_is_exact",
            "decode/test_same_as_reference.py",
        ),
    ),
    Fault(
        "the target does not wait for the branches before it selects",
        "csrc/round/round.cc",
        "if (shape.gamma > 0) t.wait(fences.draft_ready, r);",
        "",
        ("decode/test_order.py::test_nothing_is_unordered",),
    ),
    Fault(
        "an accepted path whose last node the draft has is fed to it again",
        "csrc/round/settle_op.h",
        "for (int depth = 0; depth <= o.n && c.draft_nodes.has(o.path[depth]); ++depth)",
        "for (int depth = 0; depth < o.n && c.draft_nodes.has(o.path[depth]); ++depth)",
        ("decode/test_same_as_reference.py",),
    ),
    Fault(
        "of two equally long matches a look-up takes the earlier",
        "csrc/round/lookup_op.h",
        "if (n <= longest) continue;",
        "if (n < longest) continue;",
        ("decode/test_same_as_reference.py",),
    ),
    Fault(
        "a prompt's row does not see itself",
        "csrc/round/rows_op.h",
        "Mask::upto(i + 1), Mask::none()};",
        "Mask::upto(i), Mask::none()};",
        ("model/test_families.py::test_a_setting",),
    ),
    Fault(
        "a branch is prepared for a token that hangs in the chain already",
        "csrc/round/plan_op.h",
        "const bool is_open = r < known && !(hanging >> r & 1);",
        "const bool is_open = r < known && (hanging >> r | 1);",
        ("decode/test_same_as_reference.py",),
    ),
    Fault(
        "under rejection a token of no probability stands where the coin is 0",
        "csrc/round/accept_op.h",
        "return u * place.q[token] < place.p[token];",
        "return u * place.q[token] <= place.p[token];",
        ("decode/test_accept.py",),
    ),
    Fault(
        "a rejected token may be drawn again from the draft",
        "csrc/round/accept_op.h",
        "if (team.rank == 0) place.q[token] = 0;",
        "if (team.rank == 0) place.q[token] *= 1;",
        ("decode/test_accept.py",),
    ),
    Fault(
        "the rank of a token that is no candidate is that of the last candidate",
        "csrc/round/chain.h",
        "(1 + (at < dist.n ? at : kCandidates));",
        "(1 + (at < dist.n ? at : kCandidates - 1));",
        ("decode/test_tuner.py",),
    ),
    # ---- triton_kernels
    Fault(
        "settle leaves the deepest node of an accepted path where it is",
        "triton_kernels/settle.py",
        "m_move = (depth >= 1) & (depth <= deepest)",
        "m_move = (depth >= 1) & (depth < deepest)",
        ("triton_kernels/test_settle.py",),
    ),
    Fault(
        "the mean of squares is over the padded width",
        "triton_kernels/norm.py",
        "tl.rsqrt(tl.sum(h * h, axis=0) / columns + eps)",
        "tl.rsqrt(tl.sum(h * h, axis=0) / h.shape[0] + eps)",
        ("triton_kernels/test_norm.py",),
    ),
    Fault(
        "keys and values of slot 0 are not written",
        "triton_kernels/rope.py",
        "writes = in_use & (is_query | (slot >= 0))",
        "writes = in_use & (is_query | (slot > 0))",
        ("triton_kernels/test_rope.py",),
    ),
    Fault(
        "a row sees one key beyond its own",
        "triton_kernels/attention.py",
        "(depth[None, :] < count[:, None])",
        "(depth[None, :] <= count[:, None])",
        ("triton_kernels/test_attention.py",),
    ),
    Fault(
        "only the low half of a position goes into the noise",
        "triton_kernels/noise.py",
        "high = zero + (position >> 32).to(tl.uint32)",
        "high = zero",
        ("triton_kernels/test_noise.py",),
    ),
    # ---- sbrt
    Fault(
        "a stop string that begins in an earlier token is missed by one character",
        "sbrt/serve/request.py",
        "max(0, searched - len(s) + 1)",
        "max(0, searched - len(s) + 2)",
        ("serve/test_requests.py", "base/test_outputs.py", "engine/test_engine.py"),
    ),
    Fault(
        "min_tokens is counted one token early",
        "sbrt/serve/request.py",
        "return len(self.token_ids) > self.params.min_tokens",
        "return len(self.token_ids) >= self.params.min_tokens",
        ("model/test_detokenizer.py", "base/test_outputs.py", "engine/test_engine.py"),
    ),
    Fault(
        "a vocabulary with gaps counts its tokens, not its ids",
        "sbrt/model/tokenizer.py",
        "self.size = max(self.tokens) + 1",
        "self.size = len(self.tokens)",
        ("model/test_bad_tokenizer.py", "model/test_checkpoint.py", "base/test_config.py"),
    ),
    Fault(
        "a written weight half way between two of bfloat16 is rounded up",
        "sbrt/model/safetensors_file.py",
        "(bits + 0x7FFF + (bits >> 16 & 1)) >> 16",
        "(bits + 0x8000) >> 16",
        ("model/test_safetensors_file.py", "tools/test_hrad.py"),
    ),
    Fault(
        "a safetensors header may reach eight bytes beyond the file",
        "sbrt/model/safetensors_file.py",
        "8 + length > size",
        "length > size",
        ("model/test_safetensors_file.py", "engine/test_bad_input.py"),
    ),
    Fault(
        "the bonus token is left out of the mean acceptance length",
        "sbrt/outputs.py",
        "ratio(stats.accepted + stats.rounds, stats.rounds)",
        "ratio(stats.accepted, stats.rounds)",
        ("base/test_outputs.py",),
    ),
    Fault(
        "the context of a yarn model is stretched from the stretched length",
        "sbrt/model/rope.py",
        '"yarn": rope.original_max}',
        '"yarn": max_positions}',
        ("model/test_model_config.py",),
    ),
    Fault(
        "a round's first token is the next round's",
        "sbrt/trace/timeline.py",
        "[0, *accumulate(r.tokens for r in rounds)][-count - 1 : -1]",
        "[0, *accumulate(r.tokens for r in rounds)][-count:]",
        ("trace/test_timeline.py",),
    ),
    Fault(
        "a span that begins as a round ends is that round's too",
        "sbrt/trace/timeline.py",
        "last = bisect_left(spans, end, ",
        "last = bisect_left(spans, end + 1, ",
        ("trace/test_timeline.py",),
    ),
    Fault(
        "a span that begins as a round begins is nobody's",
        "sbrt/trace/timeline.py",
        "first = bisect_left(spans, begin, ",
        "first = bisect_left(spans, begin + 1, ",
        ("trace/test_timeline.py",),
    ),
    Fault(
        "a command that failed ends with the exit code of a wrong answer",
        "sbrt/tools/flags.py",
        'print(f"{name}: error: {sentence}", file=sys.stderr)\n            return 2',
        'print(f"{name}: error: {sentence}", file=sys.stderr)\n            return 1',
        ("tools/test_cli.py",),
    ),
    # ---- sbrt/pump.py, sbrt/server
    Fault(
        "an error of the engine ends requests that go on",
        "sbrt/pump.py",
        "if stream.id not in live]",
        "if stream.id]",
        ("engine/test_async_engine.py",),
    ),
    Fault(
        "a router's temperature of 0 counts as not given",
        "sbrt/server/tokens.py",
        "type(value) is type(nothing) and value == nothing",
        "value == nothing",
        ("server/test_tokens.py",),
    ),
    Fault(
        "the last round of an answer that a stop string cut has tokens that it has not",
        "sbrt/trace/history.py",
        "tokens=min(r.tokens, tokens)",
        "tokens=r.tokens",
        ("server/test_page.py",),
    ),
    Fault(
        "a client that reads nothing is never dropped",
        "sbrt/server/run.py",
        "get_write_buffer_size() < held",
        "get_write_buffer_size() <= held",
        ("server/test_framing.py",),
    ),
    # ---- bench
    Fault(
        "a peer that stops early is measured",
        "bench/peers/lines.py",
        "self.short += len(answer.ids) != max_tokens",
        "self.short += len(answer.ids) > max_tokens",
        ("bench/test_peers.py",),
    ),
)
