// Where the trunk read before as it does at some position: what after_match() finds by reading all of
// it, found by a chain of earlier places that end in the same two tokens. Of the host.
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
  // Takes in what is new of a trunk of `length` tokens; what was there stays as it was.
  void read(const int32_t* trunk, int64_t length);
  // As after_match() of the first `length` tokens, all of which have been read.
  int64_t after_match(const int32_t* trunk, int64_t length) const;

 private:
  static constexpr uint32_t kBits = 12;
  static uint32_t place(int32_t first, int32_t second);

  std::array<int64_t, size_t{1} << kBits> last_{};  // position of the newest pair, -1: none
  Buffer<int64_t> before_;  // by position: of the one before it in its chain
  int64_t length_ = 0;
};

}  // namespace sbrt
