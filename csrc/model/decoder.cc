#include "model/decoder.h"

#include <algorithm>
#include <cmath>

#include "ops/attention.h"
#include "ops/embed.h"
#include "ops/matmul.h"
#include "ops/residual.h"
#include "ops/rope.h"

namespace sbrt {
namespace {

// Returns the length of the longest trunk that the model can process. If every layer has a window,
// the ring wraps, and the length has no limit.
int64_t longest_of(const DecoderConfig& c) { return c.is_bounded() ? kEndless : c.max_positions; }

int64_t widest_input(const DecoderConfig& c) { return std::max({c.hidden, c.q_size(), c.inner}); }

struct KeepArgs {
  const Batch* rows;
  const float* x;  // [rows, hidden]
  // [rows, kFeatureLayers, hidden]. Of each row, `kept` points to the first block that gets a copy
  // of x.
  float* kept;
  int64_t hidden;
  int32_t blocks;  // number of neighbouring blocks that get a copy of x
};

void keep(const KeepArgs& a, Worker worker) {
  const Interval mine = worker.share(a.rows->n);
  for (int64_t i = mine.begin; i < mine.end; ++i)
    for (int64_t b = 0; b < a.blocks; ++b)
      std::copy_n(a.x + i * a.hidden, a.hidden, a.kept + (i * kFeatureLayers + b) * a.hidden);
}

struct StartArgs {
  EmbedArgs embed;
  struct {
    AngleArgs angles;
    SeeArgs see;
  } kind[2];
  int kinds;
};

void start(const StartArgs& a, Worker worker) {
  embed(a.embed, worker);
  for (int k = 0; k < a.kinds; ++k) {
    find_angles(a.kind[k].angles, worker);
    see(a.kind[k].see, worker);
  }
}

LayerKind kind(const DecoderConfig& c, const LaneShape& s, int64_t window, bool has_local_rope) {
  const RopeScaling& rope = has_local_rope ? c.local_rope : c.rope;
  const double theta = has_local_rope ? c.local_theta : c.rope_theta;
  const int64_t angles = s.max_rows * c.head_dim / 2;
  return {.window = window ? std::min(window, s.max_len) : s.max_len,
          .amplitude = rope_amplitude(rope),
          .inv_freq = inverse_frequencies(c.head_dim, theta, rope),
          .cosines = Buffer<float>(angles),
          .sines = Buffer<float>(angles),
          .visible = Buffer<Visible>(s.max_rows)};
}

// Returns one kind if all layers are alike. Otherwise returns two kinds: the first for global
// layers, the second for local layers.
std::vector<LayerKind> kinds_of(const DecoderConfig& c, const LaneShape& s) {
  std::vector<LayerKind> kinds;
  if (c.local.empty() || !c.is_bounded())
    kinds.push_back(kind(c, s, c.local.empty() ? c.window : 0, false));
  if (!c.local.empty()) kinds.push_back(kind(c, s, c.window, true));
  return kinds;
}

// Checks the sizes in `s`, and returns the shape of the lane's KV ring. Throws InvalidInput.
RingShape ring_of(const DecoderConfig& c, const LaneShape& s) {
  check_within("lane: max_len", int64_t{1}, longest_of(c), s.max_len);
  check_within("lane: max_rows", 1, kMaxStepRows, s.max_rows);
  check_within("lane: threads", 1, 4096, s.threads);
  const int64_t window = c.is_bounded() ? std::min(c.window, s.max_len) : s.max_len;
  return {.capacity = window + kSlots,
          .window = window,
          .branches = s.branches,
          .tail_slots = s.tail_slots,
          .layers = static_cast<int32_t>(c.layers),
          .kv_heads = static_cast<int32_t>(c.kv_heads),
          .head_dim = static_cast<int32_t>(c.head_dim),
          .seats = s.seats};
}

}  // namespace

Decoder::Decoder(const DecoderConfig& config, const WeightFormats& formats, std::string_view isa,
                 bool has_integer_rows, const DraftParts& parts)
    : config_(config),
      kernels_(kernels_named(isa)),
      integers_(has_integer_rows ? &integers_beside(kernels_.name) : nullptr),
      weights_(std::make_shared<Weights>(config, formats, parts)) {}

int64_t Decoder::longest() const { return longest_of(config_); }

std::unique_ptr<Lane> Decoder::bind(const LaneShape& shape) const {
  check<InvalidInput>(weights_->finished(), "decoder: expected finished weights before it runs");
  return std::make_unique<DecoderLane>(config_, kernels_, integers_, weights_, shape);
}

DecoderLane::DecoderLane(const DecoderConfig& c, const Kernels& kernels, const Integers* integers,
                         std::shared_ptr<const Weights> weights, const LaneShape& s)
    : config_(c),
      kernels_(kernels),
      integers_(integers),
      weights_(std::move(weights)),
      max_rows_(s.max_rows),
      ring_(ring_of(c, s), s.debug),
      kinds_(kinds_of(c, s)),
      x_(s.max_rows * c.hidden),
      given_(c.post_norms ? s.max_rows * c.hidden : 0),
      normed_(s.threads * s.max_rows * c.hidden),
      qkv_(s.max_rows * c.qkv_size()),
      attended_(s.max_rows * c.q_size()),
      gates_(int64_t{s.threads} * s.max_rows * kGatedWidth),
      gated_(s.max_rows * c.inner),
      logits_(int64_t{s.max_rows} * weights_->columns().n),
      input_groups_(integers ? s.threads * row_groups_size(widest_input(c), s.max_rows) : 0),
      gated_groups_(integers ? row_groups_size(c.inner, s.max_rows) : 0),
      attended_groups_(integers ? row_groups_size(c.q_size(), s.max_rows) : 0),
      features_(s.features ? s.max_rows * kFeatureLayers * c.hidden : 0),
      scratch_(s.threads * attention_scratch(ring_.shape())) {}

void DecoderLane::add_forward(Graph& graph, const Batch* rows, bool with_logits) {
  add_start(graph, rows);
  const int layers = static_cast<int>(config_.layers);
  for (int layer = 0; layer < layers; ++layer) {
    const bool keys_only = !with_logits && layer == layers - 1;
    add_attention(graph, rows, layer, keys_only);
    if (!keys_only) add_mlp(graph, rows, layer);
    if (with_logits && features_.size()) add_keep(graph, rows, layer);
  }
  if (!with_logits) return;
  graph.add(matmul, linear(rows, weights_->lm_head(), x_, logits_, &weights_->norm));
}

void DecoderLane::add_start(Graph& graph, const Batch* rows) {
  const double root = std::sqrt(static_cast<double>(config_.hidden));
  const float factor = config_.scaled_embedding ? static_cast<float>(root) : 1.0f;
  StartArgs args{{&weights_->embed(), rows, x_.data(), factor}, {}, 0};
  for (const LayerKind& k : kinds_)
    args.kind[args.kinds++] = {{rows, k.inv_freq.data(), k.amplitude, config_.head_dim / 2,
                                k.cosines.data(), k.sines.data()},
                               {rows, &ring_, k.visible.data(), k.window}};
  graph.add(start, args);
}

void DecoderLane::add_keep(Graph& graph, const Batch* rows, int layer) {
  const int layers = static_cast<int>(config_.layers), first = layers - kFeatureLayers;
  if (layer < first) return;
  const int32_t blocks = layer == 0 ? 1 + std::max(0, -first) : 1;
  const int64_t block = layer == 0 ? 0 : layer - first;
  graph.add(keep, KeepArgs{rows, x_.data(), features_.data() + block * config_.hidden,
                           config_.hidden, blocks});
}

void DecoderLane::read_features(int row, int32_t token, float* out) const {
  const int64_t kept = kFeatureLayers * config_.hidden;
  std::copy_n(features_.data() + row * kept, kept, out);
  weights_->embed().read(token, out + kept);
}

void DecoderLane::add_attention(Graph& graph, const Batch* rows, int layer, bool keys_only) {
  const LayerWeights& w = weights_->layers[layer];
  const int32_t heads = static_cast<int32_t>(config_.heads);
  const LayerKind& kind = kind_of(layer);
  const double scalar =
      config_.query_scalar > 0 ? config_.query_scalar : static_cast<double>(config_.head_dim);
  const float scale = 1.0f / std::sqrt(static_cast<float>(scalar));
  const HeadNorm head_norm{&kernels_, w.q_norm.data(), w.k_norm.data(),
                           static_cast<float>(config_.rms_eps)};
  graph.add(project, ProjectArgs{linear(rows, w.qkv, x_, qkv_, &w.attention_norm),
                                 {head_norm, rows, &ring_, qkv_.data(), kind.cosines.data(),
                                  kind.sines.data(), layer, heads}});
  if (keys_only) return;
  AttentionArgs attend{
      &kernels_, rows,  &ring_, kind.visible.data(), qkv_.data(), attended_.data(), scratch_.data(),
      layer,     heads, scale};
  MatmulArgs out = linear(rows, w.o, attended_, x_);
  if (integers_ && w.o.matrix.quantised() && config_.head_dim % kRowGroup == 0) {
    attend.integers = integers_;
    out.integers.made = attend.made = attended_groups_.data();
  }
  graph.add(attention, attend);
  add_residual(graph, out, w.attention_after);
}

void DecoderLane::add_mlp(Graph& graph, const Batch* rows, int layer) {
  const LayerWeights& w = weights_->layers[layer];
  MatmulArgs gate = linear(rows, w.gate_up, x_, gated_, &w.mlp_norm);
  MatmulArgs down = linear(rows, w.down, gated_, x_);
  if (config_.gelu) gate.gate = Gate::gelu;
  if (integers_ && w.gate_up.matrix.quantised() && w.down.matrix.quantised())
    down.integers.made = gate.integers.make = gated_groups_.data();
  graph.add(matmul, gate);
  add_residual(graph, down, w.mlp_after);
}

void DecoderLane::add_residual(Graph& graph, const MatmulArgs& product,
                               const Buffer<float>& after) {
  MatmulArgs args = product;
  if (after.size()) args.y = given_.data(), args.add = nullptr;
  graph.add(matmul, args);
  if (after.size())
    graph.add(add_normed,
              ResidualArgs{&kernels_, product.rows, given_.data(), after.data(), x_.data(),
                           config_.hidden, static_cast<float>(config_.rms_eps)});
}

// Returns the arguments of matmul for y = W x. If `norm` is given, x is normalised first. If y is
// the residual stream x_, the arguments are those for y += W x.
MatmulArgs DecoderLane::linear(const Batch* rows, const Linear& weights, const Buffer<float>& x,
                               const Buffer<float>& y, const Buffer<float>* norm) const {
  const InputNorm input{norm ? norm->data() : nullptr, normed_.data(),
                        static_cast<float>(config_.rms_eps)};
  const float* add = y.data() == x_.data() ? x_.data() : nullptr;
  const InputIntegers integers{integers_, input_groups_.data()};
  return {&kernels_, &weights.matrix, rows,          x.data(),  y.data(), weights.bias.data(),
          add,       input,           gates_.data(), max_rows_, integers};
}

}  // namespace sbrt
