// Weights of a LlamaForCausalLM, packed one tensor at a time under their Hugging Face names.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ops/embed.h"
#include "ops/matmul.h"

namespace sbrt {

// Every field is hostile until check_config has passed.
struct DecoderConfig {
  int64_t hidden = 0, inner = 0, layers = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t vocab = 0, max_positions = 0;
  double rms_eps = 0, rope_theta = 0;
  bool tied = false;

  int64_t q_size() const { return heads * head_dim; }
  int64_t kv_size() const { return kv_heads * head_dim; }
  int64_t qkv_size() const { return q_size() + 2 * kv_size(); }
};

// Throws InvalidInput naming the field, its bounds and what was given.
void check_config(const DecoderConfig& config);

struct LayerWeights {
  Buffer<float> attention_norm, mlp_norm;  // [hidden]
  PackedMatrix qkv;                        // [q + k + v, hidden]
  PackedMatrix o;                          // [hidden, q]
  PackedMatrix gate_up;                    // [inner + inner, hidden]
  PackedMatrix down;                       // [hidden, inner]
};

class Weights {
 public:
  // Reserves everything; pages are touched as tensors arrive.
  Weights(const DecoderConfig& config, DType storage);
  Weights(const Weights&) = delete;

  // Packs a copy of `tensor`, rounded to the storage type. A tied lm_head and derived constants
  // (rotary_emb.inv_freq) are checked for their name and left out. Throws InvalidInput on an
  // unknown name, a second tensor of the same name, or a wrong shape; nothing is changed then.
  void load(const std::string& name, const TensorView& tensor);
  // Throws InvalidInput that names the first missing tensor; `load` is over after it.
  void finish();
  bool finished() const { return finished_; }
  int64_t parameters() const { return parameters_; }

  EmbedTable embed;  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  Buffer<float> norm;    // [hidden]
  PackedMatrix lm_head;  // [vocab, hidden]; the embedding again if tied

 private:
  // Where a tensor goes: rows of a packed matrix, a vector, or the embedding.
  struct Place {
    int64_t rows = 0, columns = 0;  // columns 0: a vector
    PackedMatrix* matrix = nullptr;
    int64_t first = 0;  // row of the matrix
    Buffer<float>* vector = nullptr;
    bool embedding = false, loaded = false, optional = false;
  };
  void expect(std::string name, const Place& place);
  void expect_layer(int64_t index, const DecoderConfig& config);
  void put(const Place& place, const TensorView& tensor);

  DType storage_;
  bool tied_, finished_ = false;
  int64_t parameters_ = 0;
  std::unordered_map<std::string, Place> places_;
  std::vector<std::string> order_;  // of names, for messages
};

}  // namespace sbrt
