// y = x W^T + bias with packed weights, behind one narrow interface.
//
// A sum runs over k from 0 up, one fma (portable: multiply, add) per step, whatever the number of
// rows, threads and neighbours: a row's result is bitwise the same in every forward.
#pragma once

#include "core/memory.h"
#include "core/tensor.h"
#include "exec/control.h"
#include "exec/exec.h"
#include "ops/kernels.h"

namespace sbrt {

// W [out, in] as panels of 16 outputs, outputs beyond `out` zero. Inside a panel k goes in pairs;
// bf16: one word per output holds k (low half) and k + 1 (high half); f32: 16 words of k, then 16
// of k + 1. Widening bf16 is exact.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  // storage: f32 or bf16. All zero until packed.
  PackedMatrix(DType storage, int64_t out, int64_t in);

  // Rows first .. first + rows of `w` [rows, in]; every element is rounded to the storage type.
  void pack(int64_t first, const TensorView& w);

  DType storage() const { return storage_; }
  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  const void* panels() const { return words_.data(); }
  int64_t bytes() const { return static_cast<int64_t>(words_.size() * sizeof(uint32_t)); }

 private:
  int64_t panel_words() const;
  DType storage_ = DType::f32;
  int64_t out_ = 0, in_ = 0;
  Buffer<uint32_t> words_;
};

struct MatmulArgs {
  const Kernels* kernels;
  const PackedMatrix* weights;
  const RowTable* rows;  // rows 0 .. n - 1 are computed
  const float* x;        // [rows, in]
  float* y;              // [rows, out]
  const float* bias;     // [out] or null: added to the sum
  const float* add;      // [rows, out] or null: added to the result; may be y
};

void matmul(const MatmulArgs& args, Worker worker);

}  // namespace sbrt
