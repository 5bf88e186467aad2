// RMSNorm and the gate of the MLP, row by row.
#pragma once

#include "exec/control.h"
#include "exec/exec.h"
#include "ops/kernels.h"

namespace sbrt {

struct NormArgs {
  const Kernels* kernels;
  const RowTable* rows;
  const float* x;       // [rows, n]
  const float* weight;  // [n]
  float* y;             // [rows, n]
  int64_t n;
  float eps;
};

// y = weight * (x / sqrt(mean(x^2) + eps))
void norm(const NormArgs& args, Worker worker);

struct GateArgs {
  const Kernels* kernels;
  const RowTable* rows;
  const float* x;  // [rows, 2 n]: gate, up
  float* y;        // [rows, n]
  int64_t n;
};

// y = silu(gate) * up
void gate(const GateArgs& args, Worker worker);

}  // namespace sbrt
