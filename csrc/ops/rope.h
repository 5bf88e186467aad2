// Norm and rope on queries and keys, and the only writes of K/V by a forward.
#pragma once

#include "exec/control.h"
#include "exec/exec.h"
#include "ops/kernels.h"
#include "ring/ring.h"

namespace sbrt {

// RMSNorm over head_dim, one weight for all heads, before rope. Null weights: none.
struct HeadNorm {
  const Kernels* kernels;
  const float* q;  // [head_dim] or null
  const float* k;  // [head_dim], null with q
  float eps;
};

struct RopeArgs {
  HeadNorm norm;
  const RowTable* rows;
  KvRing* ring;
  float* qkv;            // [rows, (heads + 2 kv_heads) head_dim]; q is rotated in place, k normed
  const float* cosines;  // [rows, head_dim / 2]
  const float* sines;    // [rows, head_dim / 2]
  int32_t layer, heads;
};

// Norms q and k, rotates the halves (not interleaved) of q in place and of k into the ring, and
// writes v, at each row's slot. A padding row (slot -1) writes nothing to the ring.
void rope(const RopeArgs& args, Worker worker);

}  // namespace sbrt
