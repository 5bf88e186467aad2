// KV storage that is addressed by positions: slot = position mod capacity. Positions only grow.
//
// The in-flight slots ARE the ring slots of positions head .. head + 63. Only branch tails have
// their own slots, after the ring. A rollback and a drop of nodes move nothing, because the head
// says which slots are live. `move` is the only code that moves KV bytes.
//
// Storage is f32, and the number of slots is capacity + tails. V is
// [layers][kv_heads][slots][head_dim]. K is stored in panels of 16 slots, [layers][kv_heads][slots
// / 16][head_dim][16]. So one vector holds 16 keys for a query.
#pragma once

#include <cstdint>

#include "core/memory.h"
#include "ring/shape.h"
#include "state/sizes.h"

namespace sbrt {

// Throws InvalidInput unless capacity >= window + 64 - 1 and all sizes are within bounds.
void check_shape(const RingShape& shape);

class KvRing {
 public:
  // `debug`: every slot has a tag (position, epoch), and dropped slots are filled with NaN.
  KvRing(const RingShape& shape, bool debug);

  const RingShape& shape() const { return shape_; }
  bool debug() const { return debug_; }
  // Returns the address of the first element of a key. Consecutive elements are kKeyPanel floats
  // apart.
  float* k(int layer, int kv_head, int64_t slot) const {
    const int64_t panel = head(layer, kv_head) * panels_ + slot / kKeyPanel;
    return k_.data() + panel * kKeyPanel * shape_.head_dim + slot % kKeyPanel;
  }
  float* v(int layer, int kv_head, int64_t slot) const {
    return v_.data() + (head(layer, kv_head) * shape_.slots() + slot) * shape_.head_dim;
  }

  // Copies one slot of every layer and head to another slot, with its tag.
  void move(int64_t from, int64_t to);
  // In a debug ring: fills a slot with NaN and clears its tag. In other rings it does nothing.
  void poison(int64_t slot);
  // In a debug ring: tag() records that `slot` now holds `position`. expect() throws if `slot` does
  // not hold `position`.
  void tag(int64_t slot, int64_t position);
  void expect(int64_t slot, int64_t position) const;

 private:
  struct Tag {
    int64_t position_plus_1;  // 0: the slot is empty
    int64_t epoch;            // number of times that this slot was written
  };
  int64_t head(int layer, int kv_head) const { return int64_t{layer} * shape_.kv_heads + kv_head; }
  RingShape shape_;
  bool debug_;
  int64_t panels_;  // number of panels per head
  Buffer<float> k_, v_;
  Buffer<Tag> tags_;
};

}  // namespace sbrt
