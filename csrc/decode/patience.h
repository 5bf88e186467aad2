// Lets the host wait for events, so that another thread can interrupt the wait.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "exec/exec.h"
#include "exec/trace.h"

namespace sbrt {

class Patience {
 public:
  explicit Patience(Exec& exec) : exec_(exec) {}

  // Blocks until the event reaches `value`, and returns true. Returns false if the time `until` (on
  // the clock of Trace::now()) or an interruption comes first.
  bool reach(Event& event, int64_t value, int64_t until) {
    while (!exec_.reach(event, value, std::min(until, Trace::now() + kLook)))
      if (Trace::now() >= until || is_interrupted()) return false;
    return true;
  }
  void interrupt() { interrupted_.store(true); }  // may be called from any thread
  void forget() { interrupted_.store(false); }
  bool is_interrupted() const { return interrupted_.load(std::memory_order_relaxed); }

 private:
  static constexpr int64_t kLook = 50'000'000;  // ns between two checks for an interruption

  Exec& exec_;
  std::atomic<bool> interrupted_{false};
};

}  // namespace sbrt
