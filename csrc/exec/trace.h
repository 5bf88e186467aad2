// A ring buffer of trace events: what a stream ran, and when. Only the stream writes the buffer.
// Other threads may read it only while the stream is idle.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

namespace sbrt {

struct TraceEvent {
  const char* name;    // name of the graph that ran, or of the event that the stream waited for
  int64_t begin, end;  // in ns, on the steady clock
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
  // Returns the events that began at `since` or later, oldest first. Events that newer ones have
  // overwritten are missing.
  std::vector<TraceEvent> events(int64_t since) const {
    const uint64_t oldest = count_ - std::min<uint64_t>(count_, ring_.size());
    uint64_t first = count_;
    while (first > oldest && ring_[(first - 1) % ring_.size()].begin >= since) --first;
    std::vector<TraceEvent> out;
    out.reserve(count_ - first);
    for (uint64_t i = first; i < count_; ++i) out.push_back(ring_[i % ring_.size()]);
    return out;
  }

 private:
  std::vector<TraceEvent> ring_;
  uint64_t count_ = 0;
};

}  // namespace sbrt
