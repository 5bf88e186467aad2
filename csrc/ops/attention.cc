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

int64_t score_stride(const RingShape& ring) {
  return (ring.capacity + kSlots + kMaxTail + kScorePad + 15) / 16 * 16;
}

}  // namespace

void see(const SeeArgs& a, Worker worker) {
  const Interval mine = worker.share(a.rows->n);
  for (int64_t i = mine.begin; i < mine.end; ++i)
    find_visible(a.ring->shape(), *a.rows, a.rows->row[i], a.visible[i]);
}

int64_t attention_scratch(const RingShape& ring, int64_t group) {
  return group * score_stride(ring);
}

// A member takes neighbouring rows of one KV head, so that its keys stay in cache.
void attention(const AttentionArgs& a, Worker worker) {
  const RingShape& shape = a.ring->shape();
  const int64_t d = shape.head_dim, group = a.heads / shape.kv_heads, rows = a.rows->n;
  const int64_t stride = (a.heads + 2 * shape.kv_heads) * d;
  float* scores = a.scratch + worker.rank * attention_scratch(shape, group);
  const Interval mine = worker.share(rows * shape.kv_heads);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const int64_t head = i / rows, row = i % rows;
    const Visible& seen = a.visible[row];
    if (a.ring->debug()) expect_all(*a.ring, seen);
    a.kernels->attend({.q = a.qkv + row * stride + head * group * d,
                       .k = a.ring->k(a.layer, head, 0),
                       .v = a.ring->v(a.layer, head, 0),
                       .out = a.out + (row * a.heads + head * group) * d,
                       .scores = scores,
                       .score_stride = score_stride(shape),
                       .spans = seen.span,
                       .span_count = seen.count,
                       .group = static_cast<int>(group),
                       .head_dim = static_cast<int>(d),
                       .scale = a.scale});
  }
}

}  // namespace sbrt
