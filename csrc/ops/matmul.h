// Computes y = x W^T + bias with packed weights.
//
// In f32, a sum adds its products in ascending order of inputs, each with one fma. (The portable
// kernels multiply, then add.) The order does not depend on the number of rows, on the threads or
// on the other rows. So the result of a row has the same bits in every forward. The same holds for
// rows stored as integers; there every instruction set computes the same bits (ops/integers.h).
#pragma once

#include "exec/exec.h"
#include "ops/integers.h"
#include "ops/packed.h"
#include "state/batch.h"

namespace sbrt {

// RMSNorm of the input: weight * (x / sqrt(mean(x^2) + eps)). Every team member normalises all rows
// for itself. This takes less time than synchronising on a shared copy.
struct InputNorm {
  const float* weight = nullptr;  // [in], or null: none
  float* scratch = nullptr;       // [threads, max_rows, in]
  float eps = 0;
};

// Memory for rows as integers, used with quantised weights.
struct InputIntegers {
  const Integers* kernels = nullptr;  // kernels for rows as integers; null: the rows stay f32
  RowGroup* scratch = nullptr;        // [threads, row_groups_size(in, max_rows)]
  // The rows as integers, if an earlier op made them. Then x is not read.
  const RowGroup* made = nullptr;
  RowGroup* make = nullptr;  // if the weights are gated: y is stored here as integers, not in y
};

// The activation function of a gated product, applied to the gates.
enum class Gate { silu, gelu };

struct MatmulArgs {
  const Kernels* kernels;
  const PackedMatrix* weights;
  const Batch* rows;  // the first n rows of this batch are computed
  const float* x;     // [rows, in]
  float* y;           // [rows, out]; if gated: [rows, gates], activation(gate) * up
  const float* bias;  // [out] in the packed order of outputs, or null; added to the sum
  const float* add;   // [rows, out] or null; added to the result; may be y
  InputNorm norm{};
  // If the weights are gated: scratch memory [threads, max_rows, kGatedWidth].
  float* both = nullptr;
  int64_t max_rows = 0;  // number of rows that the scratch memory has room for
  InputIntegers integers{};
  Gate gate = Gate::silu;  // used if gated
};

void matmul(const MatmulArgs& args, Worker worker);
// Computes the outputs in `mine`, which must consist of whole panels. `rank` selects the team
// member's scratch memory.
void matmul_part(const MatmulArgs& args, int rank, Interval mine);

}  // namespace sbrt
