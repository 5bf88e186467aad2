// Rope on queries and keys, and the only writes of K/V by a forward.
#pragma once

#include "exec/control.h"
#include "exec/exec.h"
#include "ring/ring.h"

namespace sbrt {

struct RopeArgs {
  const RowTable* rows;
  KvRing* ring;
  float* qkv;            // [rows, (heads + 2 kv_heads) head_dim]; q is rotated in place
  const float* cosines;  // [rows, head_dim / 2]
  const float* sines;    // [rows, head_dim / 2]
  int32_t layer, heads;
};

// Rotates the halves (not interleaved) of q in place and of k into the ring, and writes v, at each
// row's slot. A padding row (slot -1) writes nothing to the ring.
void rope(const RopeArgs& args, Worker worker);

}  // namespace sbrt
