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

// The matmul of `weights` in one row order: consecutive outputs, or pairs of a gate and what it gates.
enum class Order { plain, gated };

// W [out, in] as panels of 16 outputs, outputs beyond `out` zero. Inside a panel k goes in pairs;
// bf16: one word per output holds k (low half) and k + 1 (high half); f32: 16 words of k, then 16
// of k + 1. Widening bf16 is exact. int8: groups of 64 k, of each k 16 bytes, then 16 scales in f32; a
// weight is byte x scale, scale = greatest magnitude of the group / 127.
//
// Gated: the first half of the outputs are gates of the second half, and panels of both alternate, so
// that whoever computes a gate has what it gates at hand.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  // storage: f32, bf16 or int8. All zero until packed. Gated: `out` is even.
  PackedMatrix(DType storage, int64_t out, int64_t in, Order order = Order::plain);

  // Rows first .. first + rows of `w` [rows, in]; every element is rounded to the storage type.
  void pack(int64_t first, const TensorView& w);

  Packing packing() const;
  // Outputs as they lie, with the padding of both halves if gated; and where output `o` lies.
  int64_t out() const { return order_ == Order::gated ? panels_ * kPanel : out_; }
  int64_t place_of(int64_t o) const;
  bool gated() const { return order_ == Order::gated; }
  int64_t gates() const { return out_ / 2; }
  int64_t in() const { return in_; }
  const void* panels() const { return words_.data(); }
  int64_t bytes() const { return static_cast<int64_t>(words_.size() * sizeof(uint32_t)); }

 private:
  int64_t panel_words() const;
  void pack_row(int64_t place, const TensorView& w, int64_t row);
  void pack_groups(int64_t place, const TensorView& w, int64_t row);
  DType storage_ = DType::f32;
  Order order_ = Order::plain;
  int64_t out_ = 0, in_ = 0, panels_ = 0;
  Buffer<uint32_t> words_;
};

// RMSNorm of the input: weight * (x / sqrt(mean(x^2) + eps)). Every member norms all rows for itself:
// that takes less time than to meet over a shared copy.
struct InputNorm {
  const float* weight = nullptr;  // [in], or null: none
  float* scratch = nullptr;       // [threads, max_rows, in]
  float eps = 0;
};

struct MatmulArgs {
  const Kernels* kernels;
  const PackedMatrix* weights;
  const RowTable* rows;  // rows 0 .. n - 1 are computed
  const float* x;        // [rows, in]
  float* y;              // [rows, out]; gated: [rows, gates], silu(gate) * what it gates
  const float* bias;     // [out] as they lie, or null: added to the sum
  const float* add;      // [rows, out] or null: added to the result; may be y
  InputNorm norm{};
  float* both = nullptr;  // [threads, max_rows, kGatedWidth] scratch if gated
  int64_t max_rows = 0;   // of the scratch
};

void matmul(const MatmulArgs& args, Worker worker);
// A member's outputs `mine` of it, whole panels.
void matmul_part(const MatmulArgs& args, int rank, Interval mine);

}  // namespace sbrt
