// A decoder-only transformer of the Llama or Gemma 3 family on the CPU, and its lane.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/lane.h"
#include "model/weights.h"
#include "ops/attention.h"
#include "ops/kernels.h"

namespace sbrt {

class Decoder final : public Model {
 public:
  // isa: the name of a set of kernels (ops/kernels.h). "auto" means the fastest set that this
  // machine can run. has_integer_rows: before a product with a quantised matrix, the rows are
  // converted to integers. Throws InvalidInput.
  Decoder(const DecoderConfig& config, const WeightFormats& formats, std::string_view isa,
          bool has_integer_rows, const DraftParts& parts = {});

  Weights& weights() { return *weights_; }
  std::shared_ptr<const Weights> shared_weights() const { return weights_; }
  void finish() { weights_->finish(); }
  int64_t parameters() const { return weights_->parameters(); }
  const char* isa() const { return kernels_.name; }

  int vocab() const override { return static_cast<int>(config_.vocab); }
  int64_t max_positions() const override { return config_.max_positions; }
  int64_t longest() const override;
  // Returns a lane of the given sizes. Throws InvalidInput if `finish` has not been called, or if
  // the model or its ring cannot have these sizes.
  std::unique_ptr<Lane> bind(const LaneShape& shape) const override;

 private:
  DecoderConfig config_;
  const Kernels& kernels_;
  const Integers* integers_;          // null: rows stay f32 in products with quantised matrices
  std::shared_ptr<Weights> weights_;  // shared with the lanes
};

// Properties that differ between local and global layers.
struct LayerKind {
  int64_t window;                // number of positions that a row sees, including its own
  float amplitude;               // factor of the cosines and sines of rope
  Buffer<float> inv_freq;        // [head_dim / 2]
  Buffer<float> cosines, sines;  // [max_rows, head_dim / 2]
  Buffer<Visible> visible;       // [max_rows]
};

// Owns the KV ring and every buffer of a forward. Its ops allocate nothing. The ring holds the KV
// of all positions that a row sees in any layer (the window, or max_len), and 64 in-flight slots.
// The system commits a page of memory at its first use. Global layers need every position, so
// windows in only some layers save no slots.
class DecoderLane final : public Lane {
 public:
  DecoderLane(const DecoderConfig& config, const Kernels& kernels, const Integers* integers,
              std::shared_ptr<const Weights> weights, const LaneShape& shape);
  Columns columns() const override { return weights_->columns(); }
  const RingShape& ring_shape() const override { return ring_.shape(); }
  KvRing* ring() override { return &ring_; }
  float* logits() override { return logits_.data(); }
  // If `with_logits` is false, the last layer ends once it has written its K/V, because nothing
  // reads its output.
  void add_forward(Graph& graph, const Batch* rows, bool with_logits) override;
  int64_t feature_width() const override { return features_.size() ? config_.hidden : 0; }
  void read_features(int row, int32_t token, float* out) const override;

 private:
  void add_start(Graph& graph, const Batch* rows);
  void add_keep(Graph& graph, const Batch* rows, int layer);
  void add_attention(Graph& graph, const Batch* rows, int layer, bool keys_only);
  void add_mlp(Graph& graph, const Batch* rows, int layer);
  // Appends the ops for x += product. If `after` has weights, they are those of an RMSNorm that is
  // applied to the product before the addition.
  void add_residual(Graph& graph, const MatmulArgs& product, const Buffer<float>& after);
  const LayerKind& kind_of(int layer) const {
    return kinds_[kinds_.size() > 1 && config_.is_local(layer)];
  }
  MatmulArgs linear(const Batch* rows, const Linear& weights, const Buffer<float>& x,
                    const Buffer<float>& y, const Buffer<float>* norm = nullptr) const;

  DecoderConfig config_;
  const Kernels& kernels_;
  const Integers* integers_;
  std::shared_ptr<const Weights> weights_;
  int64_t max_rows_;
  KvRing ring_;
  // One kind for all layers; or a kind for global layers, then a kind for local layers.
  std::vector<LayerKind> kinds_;
  Buffer<float> x_;  // [max_rows, hidden]
  // [max_rows, hidden], output of attention or of the MLP before its norm; empty without
  // post_norms.
  Buffer<float> given_;
  Buffer<float> normed_;    // [threads, max_rows, hidden]
  Buffer<float> qkv_;       // [max_rows, widths of q + k + v]
  Buffer<float> attended_;  // [max_rows, q]
  Buffer<float> gates_;     // [threads, max_rows, kGatedWidth]
  Buffer<float> gated_;     // [max_rows, inner]
  Buffer<float> logits_;    // [max_rows, columns]
  // [threads, row_groups_size of the widest input]: the input of a matmul as integers
  // (DecoderLane::linear).
  Buffer<RowGroup> input_groups_;
  Buffer<RowGroup> gated_groups_;     // [row_groups_size(inner, max_rows)]
  Buffer<RowGroup> attended_groups_;  // [row_groups_size(q, max_rows)]
  // [max_rows, kFeatureLayers, hidden]: inputs of H-RAD (model/features.h); empty if the lane keeps
  // none.
  Buffer<float> features_;
  Buffer<float> scratch_;  // [threads, attention_scratch]
};

}  // namespace sbrt
