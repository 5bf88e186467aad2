// y = x W^T + bias with packed weights, behind one narrow interface.
//
// In f32 a sum runs over k from 0 up, one fma (portable: multiply, add) per step, whatever the number of
// rows, threads and neighbours: a row's result is bitwise the same in every forward. With rows as
// integers the same holds, and every instruction set gives the same bits (ops/integers.h).
#pragma once

#include "exec/exec.h"
#include "ops/integers.h"
#include "ops/packed.h"
#include "state/batch.h"

namespace sbrt {

// RMSNorm of the input: weight * (x / sqrt(mean(x^2) + eps)). Every member norms all rows for itself:
// that takes less time than to meet over a shared copy.
struct InputNorm {
  const float* weight = nullptr;  // [in], or null: none
  float* scratch = nullptr;       // [threads, max_rows, in]
  float eps = 0;
};

// Rows as integers, for quantised weights.
struct InputIntegers {
  const Integers* kernels = nullptr;  // null: the rows stay f32
  RowGroup* scratch = nullptr;        // [threads, row_groups_size(in, max_rows)]
  const RowGroup* made = nullptr;  // the rows, if an earlier op has made them: then x is not read
  RowGroup* make = nullptr;        // gated: where y goes as integers; then y is not written
};

// What a gated product does to its gates.
enum class Gate { silu, gelu };

struct MatmulArgs {
  const Kernels* kernels;
  const PackedMatrix* weights;
  const Batch* rows;  // rows 0 .. n - 1 are computed
  const float* x;     // [rows, in]
  float* y;           // [rows, out]; gated: [rows, gates], activation(gate) * what it gates
  const float* bias;  // [out] as they lie, or null: added to the sum
  const float* add;   // [rows, out] or null: added to the result; may be y
  InputNorm norm{};
  float* both = nullptr;  // [threads, max_rows, kGatedWidth] scratch if gated
  int64_t max_rows = 0;   // of the scratch
  InputIntegers integers{};
  Gate gate = Gate::silu;  // if gated
};

void matmul(const MatmulArgs& args, Worker worker);
// A member's outputs `mine` of it, whole panels.
void matmul_part(const MatmulArgs& args, int rank, Interval mine);

}  // namespace sbrt
