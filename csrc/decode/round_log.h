// The results of the last rounds, in a ring buffer. The host adds an entry for each record that it
// reads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace sbrt {

struct RoundEntry {
  int64_t round;
  int32_t depth;     // depth of the verified chain
  int32_t n;         // number of accepted tokens
  int32_t branches;  // number of branches; 0 in a serial round
  bool hit;          // the outcome was among the branches, and the sequence did not end
  int32_t tokens;    // tokens added to the output: n + 1, or fewer if the sequence ended
};

class RoundLog {
 public:
  explicit RoundLog(size_t capacity) : ring_(capacity) {}

  void clear() { count_ = 0; }
  // Returns the newest entry; there must be one.
  const RoundEntry& last() const { return ring_[(count_ - 1) % ring_.size()]; }
  void put(const RoundEntry& entry) { ring_[count_++ % ring_.size()] = entry; }
  // Returns the entries, oldest first. If a sequence had more rounds than the ring buffer holds,
  // only the last ones are returned.
  std::vector<RoundEntry> entries() const {
    std::vector<RoundEntry> out;
    const uint64_t kept = std::min<uint64_t>(count_, ring_.size());
    out.reserve(kept);
    for (uint64_t i = count_ - kept; i < count_; ++i) out.push_back(ring_[i % ring_.size()]);
    return out;
  }

 private:
  std::vector<RoundEntry> ring_;
  uint64_t count_ = 0;
};

}  // namespace sbrt
