// Times at which a stream's commands ran on the device, from timed events around each. All events
// are created when a trace is asked for. The host reads them after the device has passed them, so
// nothing waits for one.
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

// The device's clock in ns of Trace::now(): an event whose time is known in both clocks.
class DeviceClock {
 public:
  // Records on `idle`, a stream with nothing enqueued, and the host waits for it.
  void set(cudaStream_t idle);
  // Time at which the device passed `event`. The clock may keep `event` and leave another one in
  // its place.
  int64_t read(TimedEvent& event);

 private:
  TimedEvent known_, tried_;
  int64_t at_ = 0;
};

class Timings {
 public:
  Timings(DeviceClock& clock, Trace& trace);

  // Called before and after a command. A second begin() in a row has no effect.
  void begin(cudaStream_t stream);
  void end(cudaStream_t stream, const char* name, bool is_wait);
  // Puts the finished slices into the trace, in order.
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
