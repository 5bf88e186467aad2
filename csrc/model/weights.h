// Weights of a decoder of the Llama or Gemma 3 family, packed one tensor at a time under their
// Hugging Face names.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/rope_table.h"
#include "ops/columns.h"
#include "ops/embed.h"
#include "ops/matmul.h"

namespace sbrt {

// Every field is untrusted until check_config has passed.
struct DecoderConfig {
  int64_t hidden = 0, inner = 0, layers = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t vocab = 0, max_positions = 0;
  double rms_eps = 0, rope_theta = 0;
  bool tied = false;
  int64_t window = 0;       // positions that a row sees in a local layer, its own included; 0: all
  bool qkv_bias = false;    // q_proj, k_proj, v_proj
  bool o_bias = false;      // o_proj
  bool mlp_bias = false;    // gate_proj, up_proj, down_proj
  bool head_norms = false;  // q_norm, k_norm: RMSNorm over head_dim before rope
  RopeScaling rope;
  // [layers], true for local layers. Empty: all layers use `rope`, and the window if there is one.
  std::vector<bool> local{};
  double local_theta = 0;  // rope of the local layers
  RopeScaling local_rope{};
  double query_scalar = 0;        // scores are divided by its square root; 0: head_dim
  bool gelu = false;              // the MLP gates with gelu (tanh form) instead of silu
  bool post_norms = false;        // RMSNorm of the outputs of attention and MLP, before x += them
  bool norm_offset = false;       // a norm multiplies by 1 + its weight
  bool scaled_embedding = false;  // x = embedding * sqrt(hidden)

  bool is_local(int64_t layer) const { return window && (local.empty() || local[layer]); }
  // Returns true if no layer sees beyond the window. Then the ring wraps, and the trunk has no
  // limit.
  bool is_bounded() const;
  int64_t q_size() const { return heads * head_dim; }
  int64_t kv_size() const { return kv_heads * head_dim; }
  int64_t qkv_size() const { return q_size() + 2 * kv_size(); }
};

// Throws InvalidInput naming the field, its bounds and the given value.
void check_config(const DecoderConfig& config);

// Storage formats: those of named matrices, by Hugging Face name, and that of all others.
struct WeightFormats {
  Format others;
  std::unordered_map<std::string, Format> named{};
};

class Weights;

// The parts of a target that its draft uses.
struct DraftParts {
  std::vector<int32_t>
      head_ids{};  // the target's ids that lm_head has rows for, ascending; empty: all
  // If given, the draft shares this target's embedding, and its head if tied, and loads neither.
  // Null: the draft has its own.
  std::shared_ptr<const Weights> target{};
};

struct Linear {
  Linear() = default;
  Linear(const std::vector<PackedMatrix::Part>& parts, int64_t in, bool biased,
         Order order = Order::plain);
  PackedMatrix matrix;  // [out, in]
  Buffer<float> bias;   // [out] in the matrix's order; no data without a bias
};

struct LayerWeights {
  Buffer<float> attention_norm, mlp_norm;  // [hidden], norms of the inputs
  // [hidden], norms of the outputs; no data without post_norms.
  Buffer<float> attention_after, mlp_after;
  Buffer<float> q_norm, k_norm;  // [head_dim]; no data without head_norms
  Linear qkv;                    // [q + k + v, hidden]
  Linear o;                      // [hidden, q]
  Linear gate_up;                // [inner + inner, hidden], gated
  Linear down;                   // [hidden, inner]
};

class Weights {
 public:
  // Reserves all memory; pages are touched when tensors are loaded. Throws InvalidInput if a format
  // is named for something that is not a matrix of this decoder. Unless its format is named, the
  // head is kInt8Head with int4, and the embedding is bf16 with int8 or int4. A tied embedding is
  // stored only once if its format is named or is a float format. A draft that shares its target's
  // embedding must have the target's width and vocabulary.
  Weights(const DecoderConfig& config, const WeightFormats& formats, const DraftParts& parts = {});
  Weights(const Weights&) = delete;

  // Packs a copy of `tensor`, rounded to its format. A tied lm_head and derived constants
  // (rotary_emb.inv_freq) are skipped after a check of their name. Throws InvalidInput on an
  // unknown name, a second tensor of the same name, or a wrong shape; nothing is changed then.
  void load(const std::string& name, const TensorView& tensor);
  // Packs a piece of a tensor that is already quantised, in the format that is named for it.
  // `first` is the row of the tensor at which the piece begins. Pieces must come in order; the
  // tensor is complete with its last row. Throws as above.
  void load(const std::string& name, const Levels& rows, int64_t first);
  // Returns the number of groups per row of a matrix; 0 for a format without groups.
  int64_t groups(const std::string& name) const;
  // Returns row `index` of a matrix, [columns], with the values that the kernels use.
  std::vector<float> row(const std::string& name, int64_t index) const;
  // Ends loading. Throws InvalidInput that names the first missing tensor.
  void finish();
  bool finished() const { return finished_; }
  int64_t parameters() const { return parameters_; }

  const EmbedTable& embed() const {
    return target_ ? target_->embed() : embed_;
  }  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  Buffer<float> norm;  // [hidden]
  // [columns().n, hidden]; the embedding again if tied
  const Linear& lm_head() const { return shares_head() ? target_->lm_head() : lm_head_; }
  const Columns& columns() const { return columns_.columns(); }

 private:
  // The destination of a tensor: rows of a packed matrix, part of a vector, or the embedding.
  struct Place {
    int64_t rows = 0, columns = 0;  // columns 0: a vector
    PackedMatrix* matrix = nullptr;
    Buffer<float>* vector = nullptr;
    const PackedMatrix* order = nullptr;  // for a bias: the matrix whose packed order it has
    int64_t first = 0;                    // first row of the matrix, or element of the bias
    float offset = 0;                     // added to each element of a norm
    bool embedding = false, loaded = false, optional = false;
    Format format{};   // format of the matrix
    int64_t have = 0;  // rows that have been loaded, if pieces are loaded
  };
  void expect(std::string name, const Place& place);
  void expect_layer(int64_t index, const DecoderConfig& config);
  void expect_norms(const std::string& at, LayerWeights& w, const DecoderConfig& config);
  void expect_linear(const std::string& name, Linear& to, int64_t first, int64_t rows);
  void expect_norm(const std::string& name, Buffer<float>& to, int64_t n);
  void put(const Place& place, const TensorView& tensor);
  bool shares_head() const { return target_ && tied_; }
  void check_parts(const DecoderConfig& config) const;
  void expect_head(const DecoderConfig& config);
  void place_embedding(const DecoderConfig& config);
  Place& place_of(const std::string& name);
  const Place& matrix_at(const std::string& name) const;
  Format format_of(const std::string& name) const;
  void check_names() const;

  WeightFormats formats_;
  ColumnMap columns_;
  std::shared_ptr<const Weights> target_;  // target whose embedding is shared; null: none
  EmbedTable embed_;
  Linear lm_head_;
  PackedMatrix embedding_;  // used if the embedding is untied and has a named format
  bool tied_, finished_ = false;
  float norm_offset_;  // added to each norm's weight as it is loaded
  int64_t parameters_ = 0;
  std::unordered_map<std::string, Place> places_;
  std::vector<std::string> order_;  // names in order, for messages about missing ones
};

}  // namespace sbrt
