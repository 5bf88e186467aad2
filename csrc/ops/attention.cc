#include "ops/attention.h"

#include <algorithm>

#include "core/check.h"

namespace sbrt {
namespace {

void append(Visible& out, int64_t slot, int64_t n) {
  if (n <= 0) return;
  Span* last = out.count ? &out.span[out.count - 1] : nullptr;
  if (last && last->slot + last->n == slot) {
    last->n += n;
  } else {
    out.span[out.count++] = {slot, n};
  }
  out.keys += n;
}

// The slots of a mask's bits, ascending; `position` is the next key's and is moved on.
template <class SlotOf>
void append_mask(Visible& out, const Mask& mask, int64_t& position, SlotOf slot_of) {
  for (uint64_t bits = mask.bits(); bits; bits &= bits - 1)
    if (position++ >= out.first) append(out, slot_of(__builtin_ctzll(bits)), 1);
}

void expect_all(const KvRing& ring, const Visible& seen) {
  int64_t position = seen.first;
  for (int s = 0; s < seen.count; ++s)
    for (int64_t i = 0; i < seen.span[s].n; ++i) ring.expect(seen.span[s].slot + i, position++);
}

}  // namespace

void find_visible(const RingShape& ring, const RowTable& rows, const Row& row, Visible& out) {
  out.count = 0;
  out.keys = 0;
  out.first = std::max<int64_t>(0, row.position - ring.window + 1);
  if (out.first < rows.head) {
    const int64_t n = rows.head - out.first, slot = ring.slot(out.first);
    check(n <= ring.capacity, "attention: the row at position ", row.position, " would see ", n,
          " trunk keys, expected at most the capacity ", ring.capacity);
    const int64_t before_wrap = std::min(n, ring.capacity - slot);
    append(out, slot, before_wrap);
    append(out, 0, n - before_wrap);
  }
  int64_t position = rows.head;
  append_mask(out, row.chain, position, [&](int bit) { return ring.slot(rows.head + bit); });
  append_mask(out, row.tail, position, [&](int bit) { return ring.tail(row.branch, bit); });
}

int64_t attention_scratch(const RingShape& ring) {
  const int64_t floats = ring.capacity + kSlots + kMaxTail + kScorePad;
  return (floats + 15) / 16 * 16;
}

void attention(const AttentionArgs& a, Worker worker) {
  const RingShape& shape = a.ring->shape();
  const int64_t d = shape.head_dim, group = a.heads / shape.kv_heads;
  const int64_t stride = (a.heads + 2 * shape.kv_heads) * d;
  float* scores = a.scratch + worker.rank * attention_scratch(shape);
  Visible seen;
  int64_t seen_by = -1;
  const Interval mine = worker.share(int64_t{a.rows->n} * shape.kv_heads);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const int64_t row = i / shape.kv_heads, head = i % shape.kv_heads;
    if (row != seen_by) {
      find_visible(shape, *a.rows, a.rows->row[row], seen);
      if (a.ring->debug()) expect_all(*a.ring, seen);
      seen_by = row;
    }
    a.kernels->attend({a.qkv + row * stride + head * group * d, a.ring->k(a.layer, head, 0),
                       a.ring->v(a.layer, head, 0), a.out + (row * a.heads + head * group) * d,
                       scores, seen.span, seen.count, static_cast<int>(group),
                       static_cast<int>(d), a.scale});
  }
}

}  // namespace sbrt
