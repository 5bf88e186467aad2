// Finds the earlier place in the trunk whose tokens best match the trunk's end. after_match() of
// round/lookup_op.h gives the same result, but reads the whole trunk. This class follows a linked
// list of the earlier places with the same last two tokens. It runs on the host.
#pragma once

#include <array>
#include <cstdint>

#include "core/memory.h"

namespace sbrt {

class TrunkIndex {
 public:
  // capacity: length of the longest trunk, in tokens.
  explicit TrunkIndex(int64_t capacity) : before_(capacity) { clear(); }

  void clear();
  // Reads the new tokens of a trunk of `length` tokens. The tokens that were read earlier must not
  // have changed.
  void read(const int32_t* trunk, int64_t length);
  // Returns the same as after_match() for the first `length` tokens. read() must have read all of
  // them.
  int64_t after_match(const int32_t* trunk, int64_t length) const;

 private:
  static constexpr uint32_t kBits = 12;
  static uint32_t place(int32_t first, int32_t second);

  // Newest position of each pair of tokens, -1: none.
  std::array<int64_t, size_t{1} << kBits> last_{};
  // [position]: the previous position with the same pair of tokens.
  Buffer<int64_t> before_;
  int64_t length_ = 0;
};

}  // namespace sbrt
