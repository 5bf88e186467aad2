// Sizes of a ring and the slots of its positions. Every device computes with these.
#pragma once

#include <cstdint>

#include "core/bits.h"

namespace sbrt {

constexpr int kKeyPanel = 16;  // slots; the stride of a key's elements, in floats

struct RingShape {
  int64_t capacity = 0;    // C positions
  int64_t window = 0;      // W: positions a row sees, itself included
  int32_t branches = 0;    // tails
  int32_t tail_slots = 0;  // slots of one tail
  int32_t layers = 0, kv_heads = 0, head_dim = 0;
  int32_t seats = 1;  // each has its own ring; they follow each other in memory

  SBRT_ANY int64_t slots() const { return seats * seat_slots(); }
  SBRT_ANY int64_t slot(int seat, int64_t position) const {
    return seat * seat_slots() + position % capacity;
  }
  SBRT_ANY int64_t tail(int seat, int branch, int j) const {
    return seat * seat_slots() + capacity + int64_t{branch} * tail_slots + j;
  }

 private:
  // With several seats each has whole panels (ring/ring.h), so copying into one changes no other.
  SBRT_ANY int64_t seat_slots() const {
    const int64_t own = capacity + int64_t{branches} * tail_slots;
    return seats == 1 ? own : (own + kKeyPanel - 1) / kKeyPanel * kKeyPanel;
  }
};

}  // namespace sbrt
