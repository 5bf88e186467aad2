// The weights of a decoder of the Llama or Gemma 3 family. They are packed one tensor at a time,
// under their Hugging Face names.
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

// The sizes and options of a decoder. Every field is untrusted until check_config has passed.
struct DecoderConfig {
  int64_t hidden = 0, inner = 0, layers = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t vocab = 0, max_positions = 0;
  double rms_eps = 0, rope_theta = 0;
  bool tied = false;
  // Number of positions that a row sees in a local layer, including its own; 0: all.
  int64_t window = 0;
  bool qkv_bias = false;    // q_proj, k_proj and v_proj have a bias
  bool o_bias = false;      // o_proj
  bool mlp_bias = false;    // gate_proj, up_proj and down_proj have a bias
  bool head_norms = false;  // q and k of each head get an RMSNorm (q_norm, k_norm) before rope
  RopeScaling rope;
  // [layers] true for local layers. If empty, all layers use `rope`, and also the window if there
  // is one.
  std::vector<bool> local{};
  double local_theta = 0;  // rope theta of the local layers
  RopeScaling local_rope{};
  // Attention scores are divided by its square root; 0: head_dim is used.
  double query_scalar = 0;
  bool gelu = false;  // the MLP's activation is gelu (tanh form) instead of silu
  // The outputs of attention and MLP get an RMSNorm before they are added to x.
  bool post_norms = false;
  bool norm_offset = false;       // a norm multiplies by (1 + weight) instead of weight
  bool scaled_embedding = false;  // the embedding is multiplied by sqrt(hidden)

  bool is_local(int64_t layer) const { return window && (local.empty() || local[layer]); }
  // Returns true if every layer has a window. Then the ring wraps, and the length of the trunk has
  // no limit.
  bool is_bounded() const;
  int64_t q_size() const { return heads * head_dim; }
  int64_t kv_size() const { return kv_heads * head_dim; }
  int64_t qkv_size() const { return q_size() + 2 * kv_size(); }
};

// Throws InvalidInput. The message names the field, its bounds and the given value.
void check_config(const DecoderConfig& config);

// Storage formats: `named` has those of some matrices, by Hugging Face name, and `others` is the
// format of all other matrices.
struct WeightFormats {
  Format others;
  std::unordered_map<std::string, Format> named{};
};

class Weights;

// The parts of a target model that its draft uses.
struct DraftParts {
  std::vector<int32_t>
      head_ids{};  // ids of the target for which lm_head has rows, ascending; empty: all
  // If given, the draft shares this target's embedding (and its head if tied), and loads neither.
  // Null: the draft has its own.
  std::shared_ptr<const Weights> target{};
};

struct Linear {
  Linear() = default;
  Linear(const std::vector<PackedMatrix::Part>& parts, int64_t in, bool biased,
         Order order = Order::plain);
  PackedMatrix matrix;  // [out, in]
  Buffer<float> bias;   // [out] in the packed order of the matrix; empty without a bias
};

struct LayerWeights {
  Buffer<float> attention_norm, mlp_norm;  // [hidden] weights of the norms of the inputs
  // [hidden] weights of the norms of the outputs; empty without post_norms.
  Buffer<float> attention_after, mlp_after;
  Buffer<float> q_norm, k_norm;  // [head_dim] weights of the norms; empty without head_norms
  Linear qkv;                    // [widths of q + k + v, hidden]
  Linear o;                      // [hidden, q]
  // [inner + inner, hidden] matrix of the gates and of the values that they gate.
  Linear gate_up;
  Linear down;  // [hidden, inner]
};

class Weights {
 public:
  // Reserves all memory. Pages are touched when tensors are loaded. Throws InvalidInput if a format
  // is named for something that is not a matrix of this decoder. If no format is named for the
  // head, it is kInt8Head in an int4 model. If none is named for the embedding, it is bf16 in int8
  // and int4 models. A tied embedding is stored only once if its format is named or is a float
  // format. A draft that shares its target's embedding must have the target's width and vocabulary.
  Weights(const DecoderConfig& config, const WeightFormats& formats, const DraftParts& parts = {});
  Weights(const Weights&) = delete;

  // Packs a copy of `tensor`, rounded to its format. A tied lm_head and derived constants
  // (rotary_emb.inv_freq) are skipped after a check of their name. Throws InvalidInput on an
  // unknown name, a second tensor of the same name, or a wrong shape. Then nothing is changed.
  void load(const std::string& name, const TensorView& tensor);
  // Packs some rows of a tensor that is already quantised, in the format that is named for it.
  // `first` is the tensor's row at which they begin. The rows must come in order. The tensor is
  // complete with its last row. Throws InvalidInput as above.
  void load(const std::string& name, const Levels& rows, int64_t first);
  // Returns the number of groups in each row of a matrix, or 0 for a format without groups.
  int64_t groups(const std::string& name) const;
  // Returns row `index` of a matrix, [columns], as the kernels see it.
  std::vector<float> row(const std::string& name, int64_t index) const;
  // Ends loading. Throws InvalidInput if a tensor is missing; the message names the first one.
  void finish();
  bool finished() const { return finished_; }
  int64_t parameters() const { return parameters_; }

  const EmbedTable& embed() const {
    return target_ ? target_->embed() : embed_;
  }  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  Buffer<float> norm;  // [hidden]
  // [columns().n, hidden] weights of the LM head; those of the embedding if tied.
  const Linear& lm_head() const { return shares_head() ? target_->lm_head() : lm_head_; }
  const Columns& columns() const { return columns_.columns(); }

 private:
  // Describes where a tensor is stored: in rows of a packed matrix, in part of a vector, or in the
  // embedding.
  struct Place {
    int64_t rows = 0, columns = 0;  // columns 0: the tensor is a vector
    PackedMatrix* matrix = nullptr;
    Buffer<float>* vector = nullptr;
    const PackedMatrix* order = nullptr;  // for a bias: the matrix whose packed order the bias has
    // The tensor's first row in `matrix`, or its first element in `vector`.
    int64_t first = 0;
    // Number that is added to each element of a norm's weights.
    float offset = 0;
    bool embedding = false, loaded = false, optional = false;
    Format format{};   // format of the matrix
    int64_t have = 0;  // number of rows loaded so far, if the tensor is loaded in parts
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
  std::shared_ptr<const Weights> target_;  // target whose embedding this draft shares; null: none
  EmbedTable embed_;
  Linear lm_head_;
  PackedMatrix embedding_;  // used if the embedding is not tied and has a named format
  bool tied_, finished_ = false;
  float norm_offset_;  // number that is added to each norm weight as it is loaded
  int64_t parameters_ = 0;
  std::unordered_map<std::string, Place> places_;
  // Names of all tensors in order, for messages about missing ones.
  std::vector<std::string> order_;
};

}  // namespace sbrt
