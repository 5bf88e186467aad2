// Finds the earlier place in the trunk whose tokens match the trunk's end best. after_match() of
// round/lookup_op.h gives the same result, but reads the whole trunk. This class follows a list of
// the earlier places with the same last two tokens. Host code.
#pragma once

#include <array>
#include <cstdint>

#include "core/memory.h"

namespace sbrt {

class TrunkIndex {
 public:
  // capacity: tokens of the longest trunk.
  explicit TrunkIndex(int64_t capacity) : before_(capacity) { clear(); }

  void clear();
  // Reads the new tokens of a trunk of `length` tokens; earlier ones must not have changed.
  void read(const int32_t* trunk, int64_t length);
  // Like after_match() for the first `length` tokens, all of which have been read.
  int64_t after_match(const int32_t* trunk, int64_t length) const;

 private:
  static constexpr uint32_t kBits = 12;
  static uint32_t place(int32_t first, int32_t second);

  std::array<int64_t, size_t{1} << kBits> last_{};  // newest position of a pair, -1: none
  Buffer<int64_t> before_;                          // [position] the previous position in its list
  int64_t length_ = 0;
};

}  // namespace sbrt
