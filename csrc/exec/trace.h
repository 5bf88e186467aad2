// A fixed ring of what a stream ran and when. Written by the stream, read when it is idle.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

namespace sbrt {

struct TraceEvent {
  const char* name;    // a graph's, or the event waited for
  int64_t begin, end;  // ns of the steady clock
  bool wait;
};

class Trace {
 public:
  explicit Trace(size_t capacity) : ring_(capacity) {}

  static int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  void put(const char* name, int64_t begin, int64_t end, bool wait) {
    ring_[count_++ % ring_.size()] = {name, begin, end, wait};
  }
  // The last events, oldest first; `dropped` is how many older ones the ring has lost.
  std::vector<TraceEvent> events() const {
    const uint64_t kept = std::min<uint64_t>(count_, ring_.size());
    std::vector<TraceEvent> out;
    out.reserve(kept);
    for (uint64_t i = count_ - kept; i < count_; ++i) out.push_back(ring_[i % ring_.size()]);
    return out;
  }
  uint64_t dropped() const { return count_ - std::min<uint64_t>(count_, ring_.size()); }
  void clear() { count_ = 0; }

 private:
  std::vector<TraceEvent> ring_;
  uint64_t count_ = 0;
};

}  // namespace sbrt
