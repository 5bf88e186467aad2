#include "model/weights.h"

#include <algorithm>

namespace sbrt {
namespace {

std::string shape_text(int64_t rows, int64_t columns) {
  return columns ? sentence("[", rows, ", ", columns, "]") : sentence("[", rows, "]");
}

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

float rounded(float value, const Format& storage) {
  return storage == kBfloat16 ? from_bf16(to_bf16(value)) : value;
}

// Returns the storage type of an embedding that is not packed. A forward reads only one of its rows
// per token, so fewer bits would save almost nothing.
DType unpacked(const Format& storage) { return storage == kFloat32 ? DType::f32 : DType::bf16; }

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
  check_within("config: query_scalar", 0.0, 1e9, c.query_scalar);
  check_rope(c.rope, c.rope_theta, c.head_dim);
  const int64_t kinds = static_cast<int64_t>(c.local.size());
  if (kinds == 0) return;
  check<InvalidInput>(kinds == c.layers, "config: local: expected none or ", c.layers, " but got ",
                      kinds);
  check<InvalidInput>(c.window > 0, "config: window: expected one next to local but got 0");
  check_rope(c.local_rope, c.local_theta, c.head_dim);
}

bool DecoderConfig::is_bounded() const {
  return window && std::find(local.begin(), local.end(), false) == local.end();
}

namespace {

// Checks all fields of a config, then returns the size of its vocabulary. Throws InvalidInput.
int32_t checked_vocab(const DecoderConfig& c) {
  check_config(c);
  return static_cast<int32_t>(c.vocab);
}

}  // namespace

Linear::Linear(const std::vector<PackedMatrix::Part>& parts, int64_t in, bool biased, Order order)
    : matrix(parts, in, order), bias(biased ? matrix.out() : 0, PageSize::large) {}

Weights::Weights(const DecoderConfig& c, const WeightFormats& formats, const DraftParts& parts)
    : formats_(formats),
      columns_(parts.head_ids, checked_vocab(c)),
      target_(parts.target),
      tied_(c.tied),
      norm_offset_(c.norm_offset ? 1.0f : 0.0f) {
  check_parts(c);
  const bool takes_embedding = c.tied && formats_.named.contains(kEmbedding);
  const Format of_head = format_of(takes_embedding ? kEmbedding : kHead);
  if (!shares_head()) lm_head_ = Linear({{of_head, columns().n}}, c.hidden, false);
  if (!target_) place_embedding(c);
  layers.resize(c.layers);
  for (int64_t i = 0; i < c.layers; ++i) expect_layer(i, c);
  expect_norm("model.norm", norm, c.hidden);
  if (!shares_head()) expect_head(c);
  check_names();
}

void Weights::check_parts(const DecoderConfig& c) const {
  check<InvalidInput>(!columns().ids || !c.tied,
                      "head: expected all ids in a head that is tied to the embedding but got ",
                      columns().n);
  if (!target_) return;
  check_equal("draft: hidden size, which is that of the target's embedding",
              target_->embed().hidden(), c.hidden);
  check_equal("draft: vocabulary, which is that of the target's embedding",
              target_->embed().vocab(), c.vocab);
}

void Weights::expect_head(const DecoderConfig& c) {
  Place head{
      .rows = columns().n, .columns = c.hidden, .optional = c.tied, .format = format_of(kHead)};
  if (!c.tied) head.matrix = &lm_head_.matrix;
  expect(kHead, head);
}

// Stores the embedding as plain rows or as a packed matrix. If the embedding is tied, the packed
// matrix also serves as the LM head.
void Weights::place_embedding(const DecoderConfig& c) {
  const bool is_packed =
      formats_.named.contains(kEmbedding) || (c.tied && !format_of(kHead).quantised());
  Place place{.rows = c.vocab, .columns = c.hidden, .format = format_of(kEmbedding)};
  if (!is_packed) {
    embed_ = EmbedTable(unpacked(formats_.others), c.vocab, c.hidden);
    place.embedding = true;
  } else {
    if (!c.tied) embedding_ = PackedMatrix(place.format, c.vocab, c.hidden);
    place.matrix = c.tied ? &lm_head_.matrix : &embedding_;
    embed_ = EmbedTable(place.matrix, c.vocab, c.hidden);
  }
  expect(kEmbedding, place);
}

Format Weights::format_of(const std::string& name) const {
  const auto found = formats_.named.find(name);
  if (found != formats_.named.end()) return found->second;
  return name == kHead && formats_.others == kInt4 ? kInt8Head : formats_.others;
}

void Weights::check_names() const {
  for (const auto& [name, format] : formats_.named) {
    check_format(format);
    const auto found = places_.find(name);
    check<InvalidInput>(found != places_.end() && found->second.columns,
                        "formats: expected names of matrices of this decoder but got ", name);
    check<InvalidInput>(!(tied_ && name == kHead),
                        "formats: expected none for a tied lm_head.weight");
  }
}

void Weights::expect_layer(int64_t index, const DecoderConfig& c) {
  LayerWeights& w = layers[index];
  const std::string at = sentence("model.layers.", index, ".");
  const auto part = [&](const char* name, int64_t out) {
    return PackedMatrix::Part{format_of(at + name + ".weight"), out};
  };
  w.qkv = Linear({part("self_attn.q_proj", c.q_size()), part("self_attn.k_proj", c.kv_size()),
                  part("self_attn.v_proj", c.kv_size())},
                 c.hidden, c.qkv_bias);
  w.o = Linear({part("self_attn.o_proj", c.hidden)}, c.q_size(), c.o_bias);
  w.gate_up = Linear({part("mlp.gate_proj", c.inner), part("mlp.up_proj", c.inner)}, c.hidden,
                     c.mlp_bias, Order::gated);
  w.down = Linear({part("mlp.down_proj", c.hidden)}, c.inner, c.mlp_bias);

  expect_norms(at, w, c);
  expect_linear(at + "self_attn.q_proj", w.qkv, 0, c.q_size());
  expect_linear(at + "self_attn.k_proj", w.qkv, c.q_size(), c.kv_size());
  expect_linear(at + "self_attn.v_proj", w.qkv, c.q_size() + c.kv_size(), c.kv_size());
  expect_linear(at + "self_attn.o_proj", w.o, 0, c.hidden);
  expect_linear(at + "mlp.gate_proj", w.gate_up, 0, c.inner);
  expect_linear(at + "mlp.up_proj", w.gate_up, c.inner, c.inner);
  expect_linear(at + "mlp.down_proj", w.down, 0, c.hidden);
}

// Registers the norm tensors that the layer must have. With post_norms, post_attention_layernorm is
// the norm of attention's output. Without post_norms, it is the norm of the MLP's input.
void Weights::expect_norms(const std::string& at, LayerWeights& w, const DecoderConfig& c) {
  expect_norm(at + "input_layernorm", w.attention_norm, c.hidden);
  if (c.head_norms) {
    expect_norm(at + "self_attn.q_norm", w.q_norm, c.head_dim);
    expect_norm(at + "self_attn.k_norm", w.k_norm, c.head_dim);
  }
  if (c.post_norms) {
    expect_norm(at + "post_attention_layernorm", w.attention_after, c.hidden);
    expect_norm(at + "pre_feedforward_layernorm", w.mlp_norm, c.hidden);
    expect_norm(at + "post_feedforward_layernorm", w.mlp_after, c.hidden);
  } else {
    expect_norm(at + "post_attention_layernorm", w.mlp_norm, c.hidden);
  }
}

void Weights::expect_linear(const std::string& name, Linear& to, int64_t first, int64_t rows) {
  expect(name + ".weight", {.rows = rows,
                            .columns = to.matrix.in(),
                            .matrix = &to.matrix,
                            .first = first,
                            .format = format_of(name + ".weight")});
  if (to.bias.size())
    expect(name + ".bias", {.rows = rows, .vector = &to.bias, .order = &to.matrix, .first = first});
}

void Weights::expect_norm(const std::string& name, Buffer<float>& to, int64_t n) {
  to = Buffer<float>(n, PageSize::large);
  expect(name + ".weight", {.rows = n, .vector = &to, .offset = norm_offset_});
}

void Weights::expect(std::string name, const Place& place) {
  if (!place.optional) parameters_ += place.rows * std::max<int64_t>(1, place.columns);
  order_.push_back(name);
  places_.emplace(std::move(name), place);
}

Weights::Place& Weights::place_of(const std::string& name) {
  check<InvalidInput>(!finished_, "weights: finished, expected no more tensors but got ", name);
  const auto found = places_.find(name);
  check<InvalidInput>(found != places_.end(), "weights: expected a tensor of this decoder but got ",
                      name);
  check<InvalidInput>(!found->second.loaded, "weights: expected each tensor once but got ", name,
                      " twice");
  return found->second;
}

void Weights::load(const std::string& name, const TensorView& t) {
  if (!finished_ && !places_.contains(name) && name.ends_with("rotary_emb.inv_freq")) return;
  Place& place = place_of(name);
  check_equal("weights: shape of " + name, shape_text(place.rows, place.columns),
              t.dims == 1 ? shape_text(t.shape[0], 0) : shape_text(t.shape[0], t.shape[1]));
  check<InvalidInput>(place.have == 0, "weights: expected row ", place.have, " of ", name,
                      " next but got all of it");
  put(place, t);
  place.loaded = true;
}

void Weights::load(const std::string& name, const Levels& rows, int64_t first) {
  Place& place = place_of(name);
  check<InvalidInput>(place.matrix && formats_.named.contains(name) && place.format.quantised(),
                      "weights: expected quantised rows of a tensor with such a format but got ",
                      name);
  check_equal("weights: columns of " + name, place.columns, rows.columns);
  check_equal("weights: first row of this piece of " + name, place.have, first);
  check_within("weights: rows of this piece of " + name, int64_t{1}, place.rows - first, rows.rows);
  place.matrix->pack(place.first + first, rows, place.format);
  place.have += rows.rows;
  place.loaded = place.have == place.rows;
}

const Weights::Place& Weights::matrix_at(const std::string& name) const {
  const auto found = places_.find(name);
  check<InvalidInput>(found != places_.end() && found->second.columns,
                      "weights: expected a matrix of this decoder but got ", name);
  return found->second;
}

int64_t Weights::groups(const std::string& name) const {
  const Place& place = matrix_at(name);
  return place.format.group ? (place.columns + place.format.group - 1) / place.format.group : 0;
}

std::vector<float> Weights::row(const std::string& name, int64_t index) const {
  const Place& place = matrix_at(name);
  check_within("weights: row of " + name, int64_t{0}, place.rows - 1, index);
  std::vector<float> out(place.columns);
  if (place.matrix) {
    place.matrix->read(place.first + index, out.data());
  } else if (place.embedding) {
    embed_.read(index, out.data());
  } else {
    lm_head_.matrix.read(index, out.data());
  }
  return out;
}

void Weights::put(const Place& place, const TensorView& t) {
  if (place.matrix) place.matrix->pack(place.first, t);
  if (place.vector)
    for (int64_t i = 0; i < t.size(); ++i)
      (*place.vector)[place.order ? place.order->place_of(place.first + i) : i] =
          place.offset + rounded(t.at(i), formats_.others);
  if (place.embedding) {
    embed_.fill(t);
    if (tied_) lm_head_.matrix.pack(0, t);
  }
}

void Weights::finish() {
  check<InvalidInput>(
      !target_ || target_->finished(),
      "weights: expected finished weights of the target, whose embedding this draft has");
  for (const std::string& name : order_) {
    const Place& place = places_.at(name);
    check<InvalidInput>(place.loaded || place.optional, "weights: expected ", name,
                        " but it is missing");
  }
  finished_ = true;
}

}  // namespace sbrt
