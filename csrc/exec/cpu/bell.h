// Wakes the host when an event is reached or a time limit is over. A wait on an atomic cannot have
// a time limit, so the bell uses a condition variable.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "exec/cpu/pause.h"
#include "exec/exec.h"

namespace sbrt {

class Bell {
 public:
  // Called after an event's value was stored. The stream stores the value and then loads
  // `awaited_`. The host stores `awaited_` and then loads the value. All four accesses are
  // sequentially consistent, so at least one side sees the other's store.
  void ring(const Event& event) {
    if (awaited_.load(std::memory_order_seq_cst) != &event) return;
    {
      const std::lock_guard lock(mutex_);
    }  // from here on the host either sleeps, or will load the value again
    rung_.notify_all();
  }

  // Waits for an event. Called by the host thread only. Returns true once event >= value, or false
  // if Trace::now() reaches `until` first.
  bool wait(Event& event, int64_t value, int64_t until) {
    // The host spins first, because waking a sleeping host costs a lane about ten microseconds per
    // round.
    for (int spin = 0; spin < kSpins + kYields; ++spin) {
      if (event.reached() >= value) return true;
      if (spin < kSpins)
        cpu_relax();
      else
        std::this_thread::yield();
    }
    const auto reached = [&event, value] {
      return event.counter().load(std::memory_order_seq_cst) >= value;
    };
    std::unique_lock lock(mutex_);
    awaited_.store(&event, std::memory_order_seq_cst);
    bool done = true;
    if (until == Exec::kForever) {
      rung_.wait(lock, reached);
    } else {
      const std::chrono::nanoseconds since_start(until);
      done = rung_.wait_until(lock, std::chrono::steady_clock::time_point(since_start), reached);
    }
    awaited_.store(nullptr, std::memory_order_relaxed);
    return done;
  }

 private:
  std::atomic<const Event*> awaited_{nullptr};
  std::mutex mutex_;
  std::condition_variable rung_;
};

}  // namespace sbrt
