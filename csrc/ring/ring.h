// KV storage addressed by ever-growing positions: slot = position mod capacity.
//
// The in-flight slots ARE ring slots head .. head + 63; only branch tails have slots of their own,
// behind the ring. Rollback and dropping move nothing: the head says what is alive. `move` is the
// only code that moves KV bytes.
//
// Storage: K and V are [layers][kv_heads][slots][head_dim] f32 each, slots = capacity + tails.
#pragma once

#include <cstdint>

#include "core/memory.h"
#include "exec/control.h"

namespace sbrt {

struct RingShape {
  int64_t capacity = 0;    // C positions
  int64_t window = 0;      // W: positions a row sees, itself included
  int32_t branches = 0;    // tails
  int32_t tail_slots = 0;  // slots of one tail
  int32_t layers = 0, kv_heads = 0, head_dim = 0;

  int64_t slots() const { return capacity + int64_t{branches} * tail_slots; }
  int64_t slot(int64_t position) const { return position % capacity; }
  int64_t tail(int branch, int j) const { return capacity + int64_t{branch} * tail_slots + j; }
};

// Throws InvalidInput unless C >= W + S - 1 and all sizes are sane.
void check_shape(const RingShape& shape);

class KvRing {
 public:
  // `debug`: every slot carries (position, epoch) and dropped slots are poisoned with NaN.
  KvRing(const RingShape& shape, bool debug);

  const RingShape& shape() const { return shape_; }
  bool debug() const { return debug_; }
  float* k(int layer, int kv_head, int64_t slot) const { return at(k_, layer, kv_head, slot); }
  float* v(int layer, int kv_head, int64_t slot) const { return at(v_, layer, kv_head, slot); }
  int64_t slot_stride() const { return shape_.head_dim; }                   // floats
  int64_t head_stride() const { return shape_.slots() * shape_.head_dim; }  // floats

  // Copies one slot of every layer and head, and its tag.
  void move(int64_t from, int64_t to);
  // Debug: fills a slot with NaN and clears its tag. Nothing otherwise.
  void poison(int64_t slot);
  // Debug: says that `slot` now holds `position`; a later `expect` throws if it does not.
  void tag(int64_t slot, int64_t position);
  void expect(int64_t slot, int64_t position) const;

 private:
  struct Tag {
    int64_t position_plus_1;  // 0: nothing lives here
    int64_t epoch;            // how often this slot was written
  };
  float* at(const Buffer<float>& b, int layer, int kv_head, int64_t slot) const {
    return b.data() +
           ((int64_t{layer} * shape_.kv_heads + kv_head) * shape_.slots() + slot) * shape_.head_dim;
  }
  RingShape shape_;
  bool debug_;
  Buffer<float> k_, v_;
  Buffer<Tag> tags_;
};

}  // namespace sbrt
