#include "model/weights.h"

#include <algorithm>

namespace sbrt {
namespace {

std::string shape_text(int64_t rows, int64_t columns) {
  return columns ? sentence("[", rows, ", ", columns, "]") : sentence("[", rows, "]");
}

float rounded(float value, DType storage) {
  return storage == DType::bf16 ? from_bf16(to_bf16(value)) : value;
}

// An embedding is read a row at a time: int8 would save next to nothing.
DType unpacked(DType storage) { return storage == DType::int8 ? DType::bf16 : storage; }

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
  check_within("config: window", int64_t{0}, kLong, c.window);
  check_rope(c.rope, c.rope_theta, c.head_dim);
}

Linear::Linear(DType storage, int64_t out, int64_t in, bool biased, Order order)
    : matrix(storage, out, in, order), bias(biased ? matrix.out() : 0) {}

Weights::Weights(const DecoderConfig& c, DType storage) : storage_(storage), tied_(c.tied) {
  check_config(c);
  embed = EmbedTable(unpacked(storage), c.vocab, c.hidden);
  lm_head = Linear(storage, c.vocab, c.hidden, false);
  layers.resize(c.layers);
  expect("model.embed_tokens.weight", {.rows = c.vocab, .columns = c.hidden, .embedding = true});
  for (int64_t i = 0; i < c.layers; ++i) expect_layer(i, c);
  expect_norm("model.norm", norm, c.hidden);
  Place head{.rows = c.vocab, .columns = c.hidden, .optional = c.tied};
  if (!c.tied) head.matrix = &lm_head.matrix;
  expect("lm_head.weight", head);
}

void Weights::expect_layer(int64_t index, const DecoderConfig& c) {
  LayerWeights& w = layers[index];
  w.qkv = Linear(storage_, c.qkv_size(), c.hidden, c.qkv_bias);
  w.o = Linear(storage_, c.hidden, c.q_size(), c.o_bias);
  w.gate_up = Linear(storage_, 2 * c.inner, c.hidden, c.mlp_bias, Order::gated);
  w.down = Linear(storage_, c.hidden, c.inner, c.mlp_bias);

  const std::string at = sentence("model.layers.", index, ".");
  expect_norm(at + "input_layernorm", w.attention_norm, c.hidden);
  expect_linear(at + "self_attn.q_proj", w.qkv, 0, c.q_size());
  expect_linear(at + "self_attn.k_proj", w.qkv, c.q_size(), c.kv_size());
  expect_linear(at + "self_attn.v_proj", w.qkv, c.q_size() + c.kv_size(), c.kv_size());
  expect_linear(at + "self_attn.o_proj", w.o, 0, c.hidden);
  if (c.head_norms) {
    expect_norm(at + "self_attn.q_norm", w.q_norm, c.head_dim);
    expect_norm(at + "self_attn.k_norm", w.k_norm, c.head_dim);
  }
  expect_norm(at + "post_attention_layernorm", w.mlp_norm, c.hidden);
  expect_linear(at + "mlp.gate_proj", w.gate_up, 0, c.inner);
  expect_linear(at + "mlp.up_proj", w.gate_up, c.inner, c.inner);
  expect_linear(at + "mlp.down_proj", w.down, 0, c.hidden);
}

void Weights::expect_linear(const std::string& name, Linear& to, int64_t first, int64_t rows) {
  expect(name + ".weight",
         {.rows = rows, .columns = to.matrix.in(), .matrix = &to.matrix, .first = first});
  if (to.bias.size())
    expect(name + ".bias", {.rows = rows, .vector = &to.bias, .order = &to.matrix, .first = first});
}

void Weights::expect_norm(const std::string& name, Buffer<float>& to, int64_t n) {
  to = Buffer<float>(n);
  expect(name + ".weight", {.rows = n, .vector = &to});
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
  check<InvalidInput>(found != places_.end(), "weights: expected a tensor of this decoder but got ",
                      name);
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
    for (int64_t i = 0; i < t.size(); ++i)
      (*place.vector)[place.order ? place.order->place_of(place.first + i) : i] =
          rounded(t.at(i), storage_);
  if (place.embedding) {
    embed.fill(t);
    if (tied_) lm_head.matrix.pack(0, t);
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
