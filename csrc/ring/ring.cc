#include "ring/ring.h"

#include <cstring>
#include <limits>

#include "core/check.h"
#include "core/tensor.h"

namespace sbrt {

void check_shape(const RingShape& s) {
  check_within("ring: layers", 1, 1 << 16, s.layers);
  check_within("ring: kv_heads", 1, 1 << 16, s.kv_heads);
  check_within("ring: head_dim", 1, 1 << 16, s.head_dim);
  check_within("ring: seats", 1, kMaxSeats, s.seats);
  check_within("ring: branches", 0, kMaxBranches, s.branches);
  check_within("ring: tail slots", 0, kMaxTail, s.tail_slots);
  check_within("ring: window", int64_t{1}, std::numeric_limits<int32_t>::max() / 2, s.window);
  check<InvalidInput>(s.capacity >= s.window + kSlots - 1, "ring: capacity ", s.capacity,
                      " breaks the bound C >= W + S - 1 = ", s.window + kSlots - 1, " (window ",
                      s.window, ", in-flight slots ", kSlots, ")");
  check_within("ring: capacity", int64_t{1}, std::numeric_limits<int32_t>::max() / 2, s.capacity);
  // The number of slots is limited, because a row stores its slot in 32 bits.
  check_within("ring: slots", int64_t{1}, int64_t{std::numeric_limits<int32_t>::max()}, s.slots());
}

KvRing::KvRing(const RingShape& shape, bool debug) : shape_(shape), debug_(debug) {
  check_shape(shape);
  panels_ = (shape.slots() + kKeyPanel - 1) / kKeyPanel;
  const int64_t heads = checked_mul(shape.layers, shape.kv_heads);
  const auto floats = [&](int64_t slots) {
    const int64_t n = checked_mul(checked_mul(heads, slots), shape.head_dim);
    checked_mul(n, sizeof(float));
    return n;
  };
  k_ = Buffer<float>(floats(panels_ * kKeyPanel));
  v_ = Buffer<float>(floats(shape.slots()));
  if (debug) tags_ = Buffer<Tag>(shape.slots());
}

void KvRing::move(int64_t from, int64_t to) {
  if (from == to) return;
  const size_t bytes = shape_.head_dim * sizeof(float);
  for (int layer = 0; layer < shape_.layers; ++layer)
    for (int head = 0; head < shape_.kv_heads; ++head) {
      const float* key = k(layer, head, from);
      float* place = k(layer, head, to);
      for (int i = 0; i < shape_.head_dim; ++i) place[i * kKeyPanel] = key[i * kKeyPanel];
      std::memcpy(v(layer, head, to), v(layer, head, from), bytes);
    }
  if (debug_) tags_[to] = {tags_[from].position_plus_1, tags_[to].epoch + 1};
}

void KvRing::poison(int64_t slot) {
  if (!debug_) return;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int layer = 0; layer < shape_.layers; ++layer)
    for (int head = 0; head < shape_.kv_heads; ++head) {
      for (int i = 0; i < shape_.head_dim; ++i) k(layer, head, slot)[i * kKeyPanel] = nan;
      std::fill_n(v(layer, head, slot), shape_.head_dim, nan);
    }
  tags_[slot] = {0, tags_[slot].epoch + 1};
}

void KvRing::tag(int64_t slot, int64_t position) {
  if (debug_) tags_[slot] = {position + 1, tags_[slot].epoch + 1};
}

void KvRing::expect(int64_t slot, int64_t position) const {
  if (!debug_) return;
  check(tags_[slot].position_plus_1 == position + 1, "ring: slot ", slot, " holds position ",
        tags_[slot].position_plus_1 - 1, " (epoch ", tags_[slot].epoch, "), expected ", position);
}

}  // namespace sbrt
