// Residual additions for models that apply a norm to the outputs of attention and MLP.
#pragma once

#include "exec/exec.h"
#include "ops/kernels.h"
#include "state/batch.h"

namespace sbrt {

struct ResidualArgs {
  const Kernels* kernels;
  const Batch* rows;
  float* given;         // [rows, n], output of attention or MLP; the norm is applied in place
  const float* weight;  // [n]
  float* x;             // [rows, n]
  int64_t n;
  float eps;
};

// Computes x += RMSNorm(given), row by row.
void add_normed(const ResidualArgs& args, Worker worker);

}  // namespace sbrt
