#include "model/weights.h"

#include <algorithm>
#include <cmath>

namespace sbrt {
namespace {

std::string shape_text(int64_t rows, int64_t columns) {
  return columns ? sentence("[", rows, ", ", columns, "]") : sentence("[", rows, "]");
}

float rounded(float value, DType storage) {
  return storage == DType::bf16 ? from_bf16(to_bf16(value)) : value;
}

}  // namespace

void check_config(const DecoderConfig& c) {
  constexpr int64_t kWide = 1 << 20, kLong = int64_t{1} << 30;
  check_within("config: hidden", int64_t{1}, kWide, c.hidden);
  check_within("config: inner", int64_t{1}, kWide, c.inner);
  check_within("config: layers", int64_t{1}, int64_t{4096}, c.layers);
  check_within("config: heads", int64_t{1}, int64_t{4096}, c.heads);
  check_within("config: kv_heads", int64_t{1}, c.heads, c.kv_heads);
  check_within("config: head_dim", int64_t{2}, int64_t{4096}, c.head_dim);
  check_within("config: vocab", int64_t{1}, int64_t{1} << 24, c.vocab);
  check_within("config: max_positions", int64_t{1}, kLong, c.max_positions);
  check<InvalidInput>(c.heads % c.kv_heads == 0, "config: kv_heads: expected a divisor of heads ",
                      c.heads, " but got ", c.kv_heads);
  check<InvalidInput>(c.head_dim % 2 == 0, "config: head_dim: expected an even number but got ",
                      c.head_dim);
  check_within("config: rms_eps", 0.0, 1.0, c.rms_eps);
  check<InvalidInput>(std::isfinite(c.rope_theta) && c.rope_theta >= 1,
                      "config: rope_theta: expected a finite number from 1 up but got ",
                      c.rope_theta);
}

Weights::Weights(const DecoderConfig& c, DType storage) : storage_(storage), tied_(c.tied) {
  check_config(c);
  embed = EmbedTable(storage, c.vocab, c.hidden);
  lm_head = PackedMatrix(storage, c.vocab, c.hidden);
  norm = Buffer<float>(c.hidden);
  layers.resize(c.layers);
  expect("model.embed_tokens.weight", {.rows = c.vocab, .columns = c.hidden, .embedding = true});
  for (int64_t i = 0; i < c.layers; ++i) expect_layer(i, c);
  expect("model.norm.weight", {.rows = c.hidden, .vector = &norm});
  Place head{.rows = c.vocab, .columns = c.hidden, .optional = c.tied};
  if (!c.tied) head.matrix = &lm_head;
  expect("lm_head.weight", head);
}

void Weights::expect_layer(int64_t index, const DecoderConfig& c) {
  LayerWeights& w = layers[index];
  w.attention_norm = Buffer<float>(c.hidden);
  w.mlp_norm = Buffer<float>(c.hidden);
  w.qkv = PackedMatrix(storage_, c.qkv_size(), c.hidden);
  w.o = PackedMatrix(storage_, c.hidden, c.q_size());
  w.gate_up = PackedMatrix(storage_, 2 * c.inner, c.hidden);
  w.down = PackedMatrix(storage_, c.hidden, c.inner);

  const std::string prefix = sentence("model.layers.", index, ".");
  const auto matrix = [&](const char* name, PackedMatrix& to, int64_t first, int64_t rows) {
    expect(prefix + name, {.rows = rows, .columns = to.in(), .matrix = &to, .first = first});
  };
  expect(prefix + "input_layernorm.weight", {.rows = c.hidden, .vector = &w.attention_norm});
  matrix("self_attn.q_proj.weight", w.qkv, 0, c.q_size());
  matrix("self_attn.k_proj.weight", w.qkv, c.q_size(), c.kv_size());
  matrix("self_attn.v_proj.weight", w.qkv, c.q_size() + c.kv_size(), c.kv_size());
  matrix("self_attn.o_proj.weight", w.o, 0, c.hidden);
  expect(prefix + "post_attention_layernorm.weight", {.rows = c.hidden, .vector = &w.mlp_norm});
  matrix("mlp.gate_proj.weight", w.gate_up, 0, c.inner);
  matrix("mlp.up_proj.weight", w.gate_up, c.inner, c.inner);
  matrix("mlp.down_proj.weight", w.down, 0, c.hidden);
}

void Weights::expect(std::string name, const Place& place) {
  if (!place.optional) parameters_ += place.rows * std::max<int64_t>(1, place.columns);
  order_.push_back(name);
  places_.emplace(std::move(name), place);
}

void Weights::load(const std::string& name, const TensorView& t) {
  check<InvalidInput>(!finished_, "weights: finished, expected no more tensors but got ", name);
  const auto found = places_.find(name);
  if (found == places_.end() && name.ends_with("rotary_emb.inv_freq")) return;
  check<InvalidInput>(found != places_.end(),
                      "weights: expected a tensor of LlamaForCausalLM but got ", name);
  Place& place = found->second;
  check<InvalidInput>(!place.loaded, "weights: expected each tensor once but got ", name, " twice");
  check_equal("weights: shape of " + name, shape_text(place.rows, place.columns),
              t.dims == 1 ? shape_text(t.shape[0], 0) : shape_text(t.shape[0], t.shape[1]));
  put(place, t);
  place.loaded = true;
}

void Weights::put(const Place& place, const TensorView& t) {
  if (place.matrix) place.matrix->pack(place.first, t);
  if (place.vector)
    for (int64_t i = 0; i < t.size(); ++i) (*place.vector)[i] = rounded(t.at(i), storage_);
  if (place.embedding) {
    embed.fill(t);
    if (tied_) lm_head.pack(0, t);
  }
}

void Weights::finish() {
  for (const std::string& name : order_) {
    const Place& place = places_.at(name);
    check<InvalidInput>(place.loaded || place.optional, "weights: expected ", name,
                        " but it is missing");
  }
  finished_ = true;
}

}  // namespace sbrt
