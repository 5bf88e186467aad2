// The weights of a decoder of the Llama or Gemma 3 family. Tensors are loaded one at a time under
// their Hugging Face names, and packed.
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
  // Number of positions that a row sees in a local layer, including its own; 0: no limit.
  int64_t window = 0;
  bool qkv_bias = false;    // q_proj, k_proj and v_proj have a bias
  bool o_bias = false;      // o_proj
  bool mlp_bias = false;    // gate_proj, up_proj and down_proj have a bias
  bool head_norms = false;  // q and k of each head get an RMSNorm (q_norm, k_norm) before rope
  RopeScaling rope;
  // [layers], true for local layers. If empty, all layers are alike: they use `rope`, and `window`
  // if it is not 0.
  std::vector<bool> local{};
  double local_theta = 0;  // rope theta of the local layers
  RopeScaling local_rope{};
  // Attention scores are divided by the square root of query_scalar; 0: of head_dim.
  double query_scalar = 0;
  bool gelu = false;  // the MLP's activation is gelu (tanh form) instead of silu
  // An RMSNorm is applied to the outputs of attention and MLP before they are added to x.
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

// Throws InvalidInput if a field is invalid. The message names the field, its bounds and its value.
void check_config(const DecoderConfig& config);

// Storage formats of matrices. `named` has the formats of some matrices, by Hugging Face name. All
// other matrices have the format `others`.
struct WeightFormats {
  Format others;
  std::unordered_map<std::string, Format> named{};
};

class Weights;

// Describes a draft's LM head, and what the draft shares with its target.
struct DraftParts {
  std::vector<int32_t>
      // Ids of the target's tokens for which lm_head has rows, in ascending order; empty: all ids.
      head_ids{};
  // The target whose embedding the draft uses; if the embedding is tied, also its LM head. The
  // draft then loads neither. Null: the draft loads its own.
  std::shared_ptr<const Weights> target{};
};

struct Linear {
  Linear() = default;
  Linear(const std::vector<PackedMatrix::Part>& parts, int64_t in, bool biased,
         Order order = Order::plain);
  PackedMatrix matrix;  // [out, in]
  // [out] in the same order as the packed outputs of `matrix`; empty without a bias.
  Buffer<float> bias;
};

struct LayerWeights {
  // [hidden], weights of the norms before attention and MLP.
  Buffer<float> attention_norm, mlp_norm;
  // [hidden], weights of the norms of the outputs of attention and MLP; empty without post_norms.
  Buffer<float> attention_after, mlp_after;
  // [head_dim], weights of the norms of q and k; empty without head_norms.
  Buffer<float> q_norm, k_norm;
  Linear qkv;  // [q_size + 2 kv_size, hidden]
  Linear o;    // [hidden, q]
  // [2 inner, hidden]: the rows of gate_proj and of up_proj.
  Linear gate_up;
  Linear down;  // [hidden, inner]
};

class Weights {
 public:
  // Reserves all memory. The system commits its pages when tensors are loaded. Formats: without an
  // entry in `named`, the LM head of an int4 model gets kInt8Head, and the embedding of an int8 or
  // int4 model gets bf16. A tied embedding is stored once if its format is in `named` or is a float
  // format; otherwise it is stored twice. Throws InvalidInput if `named` has a name that is not a
  // matrix of this decoder. Throws it also if a draft shares its target's embedding but has another
  // width or vocabulary.
  Weights(const DecoderConfig& config, const WeightFormats& formats, const DraftParts& parts = {});
  Weights(const Weights&) = delete;

  // Packs a copy of `tensor`, rounded to its format. The function checks the names of a tied
  // lm_head and of derived constants (rotary_emb.inv_freq), and skips their values. Throws
  // InvalidInput on an unknown name, a wrong shape, or a tensor that is already loaded. Then
  // nothing has changed.
  void load(const std::string& name, const TensorView& tensor);
  // Packs rows `first` and following of a tensor that is already quantised. The format must be the
  // one in `named`. Callers pass the rows in order; the tensor is complete after its last row.
  // Throws InvalidInput, as above.
  void load(const std::string& name, const Levels& rows, int64_t first);
  // Returns the number of quantisation groups in each row of a matrix. Formats without groups: 0.
  int64_t groups(const std::string& name) const;
  // Returns row `index` of a matrix as f32, [columns]. The values are those that the kernels
  // compute with.
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
  // Returns the LM head, [columns().n, hidden]. If tied, it has the weights of the embedding.
  const Linear& lm_head() const { return shares_head() ? target_->lm_head() : lm_head_; }
  const Columns& columns() const { return columns_.columns(); }

 private:
  // Describes where a tensor is stored: in rows of a packed matrix, in part of a vector, or in the
  // embedding.
  struct Place {
    int64_t rows = 0, columns = 0;  // columns == 0: the tensor is a vector
    PackedMatrix* matrix = nullptr;
    Buffer<float>* vector = nullptr;
    // For a bias: the matrix whose packed order of outputs the bias follows.
    const PackedMatrix* order = nullptr;
    // The tensor's first row in `matrix`, or its first element in `vector`.
    int64_t first = 0;
    // Number that is added to each weight of a norm.
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
  PackedMatrix embedding_;  // used if the embedding is not tied and its format is in `named`
  bool tied_, finished_ = false;
  float norm_offset_;  // number that is added to each norm weight as it is loaded
  int64_t parameters_ = 0;
  std::unordered_map<std::string, Place> places_;
  // Names of all tensors, in the order in which `finish` reports missing ones.
  std::vector<std::string> order_;
};

}  // namespace sbrt
