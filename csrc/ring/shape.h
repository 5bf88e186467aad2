// The sizes of a ring, and the slots of its positions. The host and every device use this code.
#pragma once

#include <cstdint>

#include "core/bits.h"

namespace sbrt {

// Slots per panel of keys; a key's elements are this number of floats apart.
constexpr int kKeyPanel = 16;

struct RingShape {
  int64_t capacity = 0;    // C: number of positions
  int64_t window = 0;      // W: number of positions that a row sees, including its own
  int32_t branches = 0;    // tails
  int32_t tail_slots = 0;  // number of slots of one tail
  int32_t layers = 0, kv_heads = 0, head_dim = 0;
  int32_t seats = 1;  // each seat has its own ring; the rings follow each other in memory

  SBRT_ANY int64_t slots() const { return seats * seat_slots(); }
  SBRT_ANY int64_t slot(int seat, int64_t position) const {
    return seat * seat_slots() + position % capacity;
  }
  SBRT_ANY int64_t tail(int seat, int branch, int j) const {
    return seat * seat_slots() + capacity + int64_t{branch} * tail_slots + j;
  }

 private:
  // If there are several seats, each has whole panels of slots (ring/ring.h). So a copy into one
  // seat changes no other seat.
  SBRT_ANY int64_t seat_slots() const {
    const int64_t own = capacity + int64_t{branches} * tail_slots;
    return seats == 1 ? own : (own + kKeyPanel - 1) / kKeyPanel * kKeyPanel;
  }
};

}  // namespace sbrt
