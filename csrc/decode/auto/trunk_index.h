// Finds the earlier place in the trunk whose tokens best match the trunk's end. best_match() of
// round/lookup_op.h gives the same result, but reads the whole trunk. This class follows a linked
// list of the earlier places whose last two tokens have the same hash. It runs on the host.
#pragma once

#include <array>
#include <cstdint>

#include "core/memory.h"
#include "round/lookup_op.h"

namespace sbrt {

class TrunkIndex {
 public:
  // capacity: length of the longest trunk, in tokens.
  explicit TrunkIndex(int64_t capacity) : before_(capacity) { clear(); }

  void clear();
  // Reads the new tokens of a trunk of `length` tokens. The tokens that were read earlier must not
  // have changed.
  void read(const int32_t* trunk, int64_t length);
  // Returns the best match for the end of the first `length` tokens, as best_match() of
  // round/lookup_op.h does. The call read(trunk, length) must come before.
  Match match(const int32_t* trunk, int64_t length) const;

 private:
  static constexpr uint32_t kBits = 12;
  static uint32_t place(int32_t first, int32_t second);

  // [hash] newest position at which a pair of tokens with this hash ends; -1: none.
  std::array<int64_t, size_t{1} << kBits> last_{};
  // [position] the previous position at which a pair with the same hash ends; -1: none.
  Buffer<int64_t> before_;
  int64_t length_ = 0;
};

}  // namespace sbrt
