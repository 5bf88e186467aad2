#include "decode/auto/trunk_index.h"

#include "core/check.h"

namespace sbrt {

void TrunkIndex::clear() {
  last_.fill(-1);
  length_ = 0;
}

uint32_t TrunkIndex::place(int32_t first, int32_t second) {
  constexpr uint64_t kOdd = 0x9E3779B97F4A7C15;  // 2^64 divided by the golden ratio
  const uint64_t pair =
      static_cast<uint64_t>(static_cast<uint32_t>(first)) << 32 | static_cast<uint32_t>(second);
  return static_cast<uint32_t>(pair * kOdd >> (64 - kBits));
}

void TrunkIndex::read(const int32_t* trunk, int64_t length) {
  check_within("trunk: tokens", int64_t{0}, static_cast<int64_t>(before_.size()), length);
  for (; length_ < length; ++length_) {
    if (length_ == 0) continue;
    int64_t& last = last_[place(trunk[length_ - 1], trunk[length_])];
    before_[length_] = last;
    last = length_;
  }
}

Match TrunkIndex::match(const int32_t* trunk, int64_t length) const {
  if (length <= kShortestMatch) return {-1, 0};
  const TextEnd end = end_of(trunk, length);
  Match best{-1, 0};
  for (int64_t last = before_[length - 1]; last >= 0 && best.length < kLongestMatch;
       last = before_[last]) {
    const int n = matching(trunk, end, last);
    if (n >= kShortestMatch && n > best.length) best = {last + 1, n};
  }
  return best;
}

}  // namespace sbrt
