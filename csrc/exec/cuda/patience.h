// How the host waits for a device.
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

// It sleeps through most of the shortest of its last waits, looks again and again
// until such a wait would be over, and then now and then.
class Patience {
 public:
  void begin() {
    begun_ = Trace::now();
    naps_ = 0;
    if (least_ > kShort) nap(least_ - least_ / 4);
  }
  // Between two looks; true now and then, to look for errors.
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
