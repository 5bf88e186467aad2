// Computes y = x W^T + bias with packed weights.
//
// In f32 a sum adds the products in ascending order of k, each with one fma (portable: multiply,
// then add). The order does not depend on the number of rows, on the threads or on the other rows.
// So a row's result is bitwise the same in every forward. The same holds for rows stored as
// integers. For these every instruction set gives the same bits (ops/integers.h).
#pragma once

#include "exec/exec.h"
#include "ops/integers.h"
#include "ops/packed.h"
#include "state/batch.h"

namespace sbrt {

// RMSNorm of the input: weight * (x / sqrt(mean(x^2) + eps)). Every team member norms all rows for
// itself. This takes less time than synchronising on a shared copy.
struct InputNorm {
  const float* weight = nullptr;  // [in], or null: none
  float* scratch = nullptr;       // [threads, max_rows, in]
  float eps = 0;
};

// Rows stored as integers, for quantised weights.
struct InputIntegers {
  const Integers* kernels = nullptr;  // kernels for integer rows; null: the rows stay f32
  RowGroup* scratch = nullptr;        // [threads, row_groups_size(in, max_rows)]
  // The rows, if an earlier op made them as integers; then x is not read.
  const RowGroup* made = nullptr;
  RowGroup* make = nullptr;  // if gated: stores y here as integers instead of in y
};

// The activation function for the gates in a gated product.
enum class Gate { silu, gelu };

struct MatmulArgs {
  const Kernels* kernels;
  const PackedMatrix* weights;
  const Batch* rows;  // the first n rows of this batch are computed
  const float* x;     // [rows, in]
  float* y;           // [rows, out]; if gated: [rows, gates], activation(gate) * up
  const float* bias;  // [out] in packed order, or null; added to the sum
  const float* add;   // [rows, out] or null; added to the result; may be y
  InputNorm norm{};
  float* both = nullptr;  // if gated: scratch memory [threads, max_rows, kGatedWidth]
  int64_t max_rows = 0;   // number of rows that the scratch memory has room for
  InputIntegers integers{};
  Gate gate = Gate::silu;  // used if gated
};

void matmul(const MatmulArgs& args, Worker worker);
// Computes the outputs in `mine`, which must consist of whole panels. `rank` selects the team
// member's scratch memory.
void matmul_part(const MatmulArgs& args, int rank, Interval mine);

}  // namespace sbrt
