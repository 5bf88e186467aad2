// When the commands of a stream ran on the device: timed events around each, all of them made when a
// trace is asked for, read back by the host once the device is past them. Nobody waits for one.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "exec/cuda/call.h"
#include "exec/trace.h"

namespace sbrt {

class TimedEvent {
 public:
  TimedEvent() { checked(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~TimedEvent() {
    if (event_) static_cast<void>(cudaEventDestroy(event_));
  }
  TimedEvent(TimedEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  TimedEvent& operator=(TimedEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }

  void record(cudaStream_t stream) { checked(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  bool is_over() const { return is_done(cudaEventQuery(event_), "cudaEventQuery"); }
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// The device's clock in ns of Trace::now(): an event of which both times are known.
class DeviceClock {
 public:
  // By a stream with nothing enqueued, for which the host waits.
  void set(cudaStream_t idle);
  // When the device passed `event`. It may be kept, and another one left in its place.
  int64_t read(TimedEvent& event);

 private:
  TimedEvent known_, tried_;
  int64_t at_ = 0;
};

class Timings {
 public:
  Timings(DeviceClock& clock, Trace& trace);

  // Before and behind a command. A second begin() in a row is the first one's.
  void begin(cudaStream_t stream);
  void end(cudaStream_t stream, const char* name, bool is_wait);
  // Puts what is over into the trace, in order.
  void collect();

 private:
  struct Slice {
    TimedEvent begin, end;
    const char* name = nullptr;
    bool is_wait = false;
  };

  DeviceClock& clock_;
  Trace& trace_;
  std::vector<Slice> slices_;
  uint64_t ended_ = 0, collected_ = 0;
  bool is_open_ = false;  // begun, not ended
};

}  // namespace sbrt
