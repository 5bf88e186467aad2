// Computes the queries, keys and values of a layer: projection, norm, rope. No other op of a
// forward writes K/V.
#pragma once

#include "exec/exec.h"
#include "ops/kernels.h"
#include "ops/matmul.h"
#include "ring/ring.h"
#include "state/batch.h"

namespace sbrt {

// RMSNorm of each head of q and k before rope. All heads share one weight vector. A null pointer
// means no norm.
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
  // [rows, (heads + 2 kv_heads) head_dim]. q is normed and rotated in place. k is normed in place,
  // and its rotated values go to the ring.
  float* qkv;
  const float* cosines;  // [rows, head_dim / 2]
  const float* sines;    // [rows, head_dim / 2]
  int32_t layer, heads;
};

// Norms and rotates `heads` of all rows, and writes k and v to the ring. Heads are numbered: first
// those of q, then of k, then of v. tags: also tags the ring's slots with positions; true in one
// call per layer.
void rope(const RopeArgs& args, Interval heads, bool tags);

struct ProjectArgs {
  MatmulArgs matmul;  // y is rope.qkv
  RopeArgs rope;
};

// Computes y = x W^T, norms q and k, and rotates the pairs (j, head_dim / 2 + j). q is rotated in
// place, and k is rotated into the ring. Writes v to the ring, at each row's slot. A padding row
// (slot -1) writes nothing to the ring. A team member computes whole heads, so that it can rotate
// them without synchronising.
void project(const ProjectArgs& args, Worker worker);

}  // namespace sbrt
