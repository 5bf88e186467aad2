// Finds an earlier place in the trunk that matches a position. It gives the same result as
// after_match(), which reads the whole trunk, by a chain of earlier places with the same two
// tokens. Host code.
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

  std::array<int64_t, size_t{1} << kBits> last_{};  // position of the newest pair, -1: none
  Buffer<int64_t> before_;                          // [position] the previous position in its chain
  int64_t length_ = 0;
};

}  // namespace sbrt
