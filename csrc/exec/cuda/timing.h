// Measures when a stream's commands ran on the device, with a timed event before and after each
// command. All events are created when the trace starts. The host reads an event after the device
// has passed it, so nothing waits for an event.
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

// Converts times of the device to ns on the clock of Trace::now(). It uses an event whose time is
// known on both clocks (the known event).
class DeviceClock {
 public:
  // Records the known event again, and waits until the device has passed it. idle: a stream with
  // nothing enqueued.
  void set(cudaStream_t idle);
  // Returns the time at which the device passed `event`. The clock may keep this event, and put
  // another one in its place.
  int64_t read(TimedEvent& event);

 private:
  TimedEvent known_, tried_;
  int64_t at_ = 0;
};

class Timings {
 public:
  Timings(DeviceClock& clock, Trace& trace);

  // Call begin() before a command, and end() after it. A begin() after a begin() has no effect.
  void begin(cudaStream_t stream);
  void end(cudaStream_t stream, const char* name, bool is_wait);
  // Moves the times of finished commands into the trace, in order.
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
  bool is_open_ = false;  // begin() was called, but end() was not yet
};

}  // namespace sbrt
