// The first ops of a forward: token embeddings and rope angles of every row.
#pragma once

#include "core/memory.h"
#include "core/tensor.h"
#include "exec/exec.h"
#include "ops/packed.h"
#include "state/batch.h"

namespace sbrt {

// The token embedding, [vocab, hidden]. It owns rows in f32 or bf16, or reads a packed matrix that
// another object owns.
class EmbedTable {
 public:
  EmbedTable() = default;
  EmbedTable(DType storage, int64_t vocab, int64_t hidden);
  EmbedTable(const PackedMatrix* packed, int64_t vocab, int64_t hidden)
      : packed_(packed), vocab_(vocab), hidden_(hidden) {}
  // Copies w, [vocab, hidden], rounded to the storage type. The table must not be a packed matrix.
  void fill(const TensorView& w);
  void read(int64_t token, float* out) const;  // out: [hidden]
  int64_t vocab() const { return vocab_; }
  int64_t hidden() const { return hidden_; }

 private:
  DType storage_ = DType::f32;
  const PackedMatrix* packed_ = nullptr;
  int64_t vocab_ = 0, hidden_ = 0;
  Buffer<float> wide_;
  Buffer<uint16_t> narrow_;
};

struct EmbedArgs {
  const EmbedTable* table;
  const Batch* rows;
  float* x;      // [rows, hidden]
  float factor;  // factor by which the embedding is multiplied
};

// Sets x to the embedding of each row's token, times `factor`. The token of a padding row may be
// invalid; in other rows an invalid token throws Error.
void embed(const EmbedArgs& args, Worker worker);

struct AngleArgs {
  const Batch* rows;
  const float* inv_freq;  // [half]
  float scale;            // factor by which the cosines and sines are multiplied
  int64_t half;           // head_dim / 2
  float* cosines;         // [rows, half]
  float* sines;           // [rows, half]
};

// Computes the cosines and sines of each row's rope angles, times `scale`. Below position 2^24 the
// angle is float32(position) * inv_freq in float32, as in transformers. At higher positions the
// product is computed in double.
void find_angles(const AngleArgs& args, Worker worker);

}  // namespace sbrt
