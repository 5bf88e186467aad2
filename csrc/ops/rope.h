// Computes the queries, keys and values of a layer: projection, norm, rope. Only this op of a
// forward writes K/V.
#pragma once

#include "exec/exec.h"
#include "ops/kernels.h"
#include "ops/matmul.h"
#include "ring/ring.h"
#include "state/batch.h"

namespace sbrt {

// RMSNorm of each head of q and k, applied before rope. All heads share one weight vector. If the
// pointer to the vector is null, there is no norm.
struct HeadNorm {
  const Kernels* kernels;
  const float* q;  // [head_dim] or null
  const float* k;  // [head_dim], null with q
  float eps;
};

struct RopeArgs {
  HeadNorm norm;
  const Batch* rows;
  KvRing* ring;
  // [rows, (heads + 2 kv_heads) head_dim]. Norm and rope are applied to q in place. The norm of k
  // is applied in place, and its rotated values are written to the ring.
  float* qkv;
  const float* cosines;  // [rows, head_dim / 2]
  const float* sines;    // [rows, head_dim / 2]
  int32_t layer, heads;
};

// Applies norm and rope to the heads `heads` of all rows, and writes k and v to the ring. Heads are
// numbered: first those of q, then those of k, then those of v. tags: true in one call per layer.
// In layer 0 this call also tags the ring's slots with their positions.
void rope(const RopeArgs& args, Interval heads, bool tags);

struct ProjectArgs {
  MatmulArgs matmul;  // y is rope.qkv
  RopeArgs rope;
};

// Computes y = x W^T, applies norms to q and k, and rotates the pairs (j, head_dim / 2 + j). q is
// rotated in place. Rotated k and v are written to each row's slot of the ring. A padding row (slot
// -1) writes nothing to the ring. Each team member computes whole heads, so that it can rotate them
// without synchronising.
void project(const ProjectArgs& args, Worker worker);

}  // namespace sbrt
