// What a host thread enqueues on a stream.
#pragma once

#include <cstdint>

#include "exec/exec.h"

namespace sbrt {

struct Command {
  enum Kind { kLaunch, kWait, kRecord, kStop };
  Kind kind = kStop;
  int width = 1;
  const Graph* graph = nullptr;
  Event* event = nullptr;
  int64_t value = 0;
};

constexpr size_t kTraceEvents = 1 << 15;

}  // namespace sbrt
