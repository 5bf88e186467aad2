// Lets the host wait for one event of a device.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstdint>

#include "exec/trace.h"

namespace sbrt {

inline void nap(int64_t ns) {
  const timespec span{ns / 1'000'000'000, static_cast<long>(ns % 1'000'000'000)};
  nanosleep(&span, nullptr);
}

// The host first sleeps for three quarters of its shortest recent wait for this event. Then it
// polls until the wait should be over. After that it sleeps for short times and polls in between.
// Call begin() only for an event that is not reached yet, because begin() sleeps.
class Patience {
 public:
  void begin(int64_t until) {
    begun_ = Trace::now();
    naps_ = 0;
    const int64_t sleep = std::min(least_ - least_ / 4, until - begun_);
    if (least_ > kShort && sleep > 0) nap(sleep);
  }
  // Called each time a poll has found that the event is not reached. From time to time it returns
  // true. Then the caller should check for errors.
  bool wait() {
    if (Trace::now() - begun_ < least_ + least_ / 4 + kShort) return false;
    nap(kNap);
    return naps_++ % kNaps == 0;
  }
  void end() { least_ = std::min(Trace::now() - begun_, least_ + least_ / 8 + kShort); }

 private:
  static constexpr int64_t kShort = 100'000, kNap = 20'000;  // ns
  static constexpr int kNaps = 64;
  int64_t begun_ = 0, least_ = 0;
  int naps_ = 0;
};

}  // namespace sbrt
