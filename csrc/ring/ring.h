// KV storage addressed by ever-growing positions: slot = position mod capacity.
//
// The in-flight slots ARE ring slots head .. head + 63. Only branch tails have their own slots,
// after the ring. Rolling back and dropping move nothing: the head says which slots are live.
// `move` is the only code that moves KV bytes.
//
// Storage is f32, slots = capacity + tails. V is [layers][kv_heads][slots][head_dim]. K lies in
// panels of 16 slots, [layers][kv_heads][slots / 16][head_dim][16], so that one vector holds 16
// keys for a query.
#pragma once

#include <cstdint>

#include "core/memory.h"
#include "ring/shape.h"
#include "state/sizes.h"

namespace sbrt {

// Throws InvalidInput unless C >= W + S - 1 and all sizes are sane.
void check_shape(const RingShape& shape);

class KvRing {
 public:
  // `debug`: every slot carries (position, epoch) and dropped slots are poisoned with NaN.
  KvRing(const RingShape& shape, bool debug);

  const RingShape& shape() const { return shape_; }
  bool debug() const { return debug_; }
  // Pointer to the first element of a key. Consecutive elements are kKeyPanel floats apart.
  float* k(int layer, int kv_head, int64_t slot) const {
    const int64_t panel = head(layer, kv_head) * panels_ + slot / kKeyPanel;
    return k_.data() + panel * kKeyPanel * shape_.head_dim + slot % kKeyPanel;
  }
  float* v(int layer, int kv_head, int64_t slot) const {
    return v_.data() + (head(layer, kv_head) * shape_.slots() + slot) * shape_.head_dim;
  }

  // Copies one slot of every layer and head, and its tag.
  void move(int64_t from, int64_t to);
  // Debug: fills a slot with NaN and clears its tag. Nothing otherwise.
  void poison(int64_t slot);
  // Debug: records that `slot` now holds `position`; a later `expect` throws if it does not.
  void tag(int64_t slot, int64_t position);
  void expect(int64_t slot, int64_t position) const;

 private:
  struct Tag {
    int64_t position_plus_1;  // 0: the slot is empty
    int64_t epoch;            // how often this slot was written
  };
  int64_t head(int layer, int kv_head) const { return int64_t{layer} * shape_.kv_heads + kv_head; }
  RingShape shape_;
  bool debug_;
  int64_t panels_;  // per head
  Buffer<float> k_, v_;
  Buffer<Tag> tags_;
};

}  // namespace sbrt
