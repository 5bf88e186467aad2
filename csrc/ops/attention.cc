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

// Appends one slot for each bit that is set in `mask`, in ascending order, but no slot before the
// row's window. `position` is the position of the next key. The function advances it.
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

void find_visible(const SeeArgs& a, const Row& row, Visible& out) {
  const RingShape& ring = a.ring->shape();
  out.count = 0;
  out.keys = 0;
  out.first = std::max<int64_t>(0, row.position - a.window + 1);
  const int64_t head = a.rows->head[row.seat], begin = ring.slot(row.seat, 0);
  if (out.first < head) {
    const int64_t n = head - out.first, slot = ring.slot(row.seat, out.first);
    check(n <= ring.capacity, "attention: the row at position ", row.position, " would see ", n,
          " trunk keys, expected at most the capacity ", ring.capacity);
    const int64_t before_wrap = std::min(n, begin + ring.capacity - slot);
    append(out, slot, before_wrap);
    append(out, begin, n - before_wrap);
  }
  int64_t position = head;
  append_mask(out, row.chain, position, [&](int bit) { return ring.slot(row.seat, head + bit); });
  append_mask(out, row.tail, position,
              [&](int bit) { return ring.tail(row.seat, row.branch, bit); });
}

int64_t score_stride(const RingShape& ring) {
  return (ring.capacity + kSlots + kMaxTail + kScorePad + 15) / 16 * 16;
}

// Returns the number of leading keys that rows i and k both see, in the same slots.
int64_t shared_keys(const Batch& rows, const Visible* visible, int64_t i, int64_t k) {
  const Visible &a = visible[i], &b = visible[k];
  if (i == k) return a.keys;
  const int seat = rows.row[i].seat;
  if (a.first != b.first || rows.row[k].seat != seat) return 0;
  return std::max<int64_t>(0, rows.head[seat] - a.first);
}

// Computes the attention of all query heads that share one KV head. Query i is query head i % group
// of row i / group.
class HeadTask {
 public:
  HeadTask(const AttentionArgs& a, int64_t kv_head, float* scratch) : a_(a), kv_head_(kv_head) {
    const RingShape& shape = a.ring->shape();
    d_ = shape.head_dim;
    group_ = a.heads / shape.kv_heads;
    stride_ = (a.heads + 2 * shape.kv_heads) * d_;
    task_.queries = queries_;
    task_.head_dim = shape.head_dim;
    task_.k = a.ring->k(a.layer, static_cast<int>(kv_head), 0);
    task_.v = a.ring->v(a.layer, static_cast<int>(kv_head), 0);
    task_.scratch = scratch;
    task_.score_stride = score_stride(shape);
    task_.scale = a.scale;
  }

  // Computes queries first .. last - 1, in tasks of adjacent queries. All queries of a task share
  // keys with its first query.
  void run(int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i += task_.count) {
      task_.count = 0;
      task_.shared = a_.visible[i / group_].keys;
      while (task_.count < kMostQueries && i + task_.count < last && take(i, i + task_.count)) {
      }
      a_.kernels->attend(task_);
      if (a_.made) round_results(i);
    }
  }

 private:
  // Stores the outputs of the current task as integers. `first` is the index of the task's first
  // query.
  void round_results(int64_t first) const {
    const int64_t stride = row_stride(a_.rows->n);
    for (int64_t i = first; i < first + task_.count; ++i) {
      const int64_t row = i / group_, head = kv_head_ * group_ + i % group_;
      a_.integers->quantise(queries_[i - first].out, d_, stride,
                            a_.made + head * d_ / kRowGroup * stride + row);
    }
  }

  // Adds query i to the task, unless it shares no key with query `first`. Returns true if the query
  // was added.
  bool take(int64_t first, int64_t i) {
    const int64_t row = i / group_, head = kv_head_ * group_ + i % group_;
    const Visible& seen = a_.visible[row];
    const int64_t shared = shared_keys(*a_.rows, a_.visible, first / group_, row);
    if (shared == 0 && i > first && row != first / group_) return false;
    task_.shared = std::min(task_.shared, shared);
    queries_[task_.count++] = {a_.qkv + row * stride_ + head * d_,
                               a_.out + (row * a_.heads + head) * d_, seen.span, seen.keys};
    return true;
  }

  const AttentionArgs& a_;
  int64_t kv_head_, d_, group_, stride_;
  Query queries_[kMostQueries];
  AttendTask task_{};
};

}  // namespace

void see(const SeeArgs& a, Worker worker) {
  const Interval mine = worker.share(a.rows->n);
  for (int64_t i = mine.begin; i < mine.end; ++i) find_visible(a, a.rows->row[i], a.visible[i]);
}

int64_t attention_scratch(const RingShape& ring) {
  return attend_scratch(ring.head_dim, score_stride(ring));
}

// Computes the attention of all heads. Each team member computes adjacent queries of a KV head, so
// that this head's keys stay in cache.
void attention(const AttentionArgs& a, Worker worker) {
  static_assert(kKeyPanel == kPanel);
  const RingShape& shape = a.ring->shape();
  const int64_t queries = a.rows->n * (a.heads / shape.kv_heads);
  if (a.ring->debug())
    for (int64_t row = worker.rank; row < a.rows->n; row += worker.size)
      expect_all(*a.ring, a.visible[row]);
  float* scratch = a.scratch + worker.rank * attention_scratch(shape);
  const Interval mine = worker.share(queries * shape.kv_heads);
  for (int64_t i = mine.begin; i < mine.end;) {
    const int64_t head = i / queries, end = std::min(mine.end, (head + 1) * queries);
    HeadTask(a, head, scratch).run(i % queries, i % queries + end - i);
    i = end;
  }
}

}  // namespace sbrt
