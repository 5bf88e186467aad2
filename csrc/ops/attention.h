// Masked attention over ring spans.
//
// The keys a row sees are ordered by absolute position: the trunk, its ancestors in flight by
// depth, its own tail. Every sum runs in that order and nothing else enters, so where the trunk
// ends, where the ring wraps and what is a mask make no difference to one bit of the result.
#pragma once

#include "exec/exec.h"
#include "ops/integers.h"
#include "ring/ring.h"
#include "state/batch.h"

namespace sbrt {

constexpr int kMaxSpans = 2 + kSlots + kMaxTail;

// What one row sees, as storage slots in order of position.
struct Visible {
  Span span[kMaxSpans];
  int count;      // spans
  int64_t first;  // position of the first key; the others follow one by one
  int64_t keys;
};

struct SeeArgs {
  const Batch* rows;
  const KvRing* ring;
  Visible* visible;  // [rows]
  int64_t window;    // positions a row sees, itself included; at most the ring's
};

// What every row sees, once per forward.
void see(const SeeArgs& args, Worker worker);

// Floats of scratch that one member needs.
int64_t attention_scratch(const RingShape& ring);

struct AttentionArgs {
  const Kernels* kernels;
  const Batch* rows;
  const KvRing* ring;
  const Visible* visible;  // [rows]
  const float* qkv;        // [rows, (heads + 2 kv_heads) head_dim], q rotated
  float* out;              // [rows, heads head_dim]; 0 for a row that sees nothing
  float* scratch;          // [threads, attention_scratch]
  int32_t layer, heads;
  float scale;
  // If given: `out` as integers too, [groups of k][stride] (ops/integers.h); head_dim is a multiple of 32.
  const Integers* integers = nullptr;
  RowGroup* made = nullptr;
};

void attention(const AttentionArgs& args, Worker worker);

}  // namespace sbrt
