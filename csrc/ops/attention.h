// Masked attention over spans of the KV ring.
//
// A row sees keys in order of absolute position. First come the keys of the trunk, then those of
// the row's in-flight ancestors by depth, then those of its ancestors in the branch's tail. Every
// sum adds exactly these keys in this order. So the result has the same bits wherever the trunk
// ends, wherever the ring wraps, and whether or not a key comes from a mask.
#pragma once

#include "exec/exec.h"
#include "ops/integers.h"
#include "ring/ring.h"
#include "state/batch.h"

namespace sbrt {

constexpr int kMaxSpans = 2 + kSlots + kMaxTail;

// The keys that one row sees, as a list of slots in order of position.
struct Visible {
  Span span[kMaxSpans];
  int count;      // number of spans
  int64_t first;  // position of the first key; the positions of the keys are consecutive
  int64_t keys;
};

struct SeeArgs {
  const Batch* rows;
  const KvRing* ring;
  Visible* visible;  // [rows]
  // Number of positions that a row sees, including its own; at most the ring's window.
  int64_t window;
};

// Finds the keys that each row sees, once per forward.
void see(const SeeArgs& args, Worker worker);

// Returns the number of floats of scratch memory that one team member needs.
int64_t attention_scratch(const RingShape& ring);

struct AttentionArgs {
  const Kernels* kernels;
  const Batch* rows;
  const KvRing* ring;
  const Visible* visible;  // [rows]
  const float* qkv;        // [rows, (heads + 2 kv_heads) head_dim]; rope was applied to q
  float* out;              // [rows, heads * head_dim]; all zeros for a row that sees no key
  float* scratch;          // [threads, attention_scratch]
  int32_t layer, heads;
  float scale;
  // If `made` is given, the op also stores `out` there as integers, [groups, stride] RowGroups
  // (ops/integers.h). Then head_dim must be a multiple of 32.
  const Integers* integers = nullptr;
  RowGroup* made = nullptr;
};

void attention(const AttentionArgs& args, Worker worker);

}  // namespace sbrt
