// The streams of a cuda backend share its memories, its first error, and the state of events.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "exec/cpu/cpu_stream.h"
#include "exec/cuda/call.h"
#include "exec/cuda/patience.h"
#include "exec/cuda/timing.h"
#include "exec/exec.h"
#include "exec/failure.h"

namespace sbrt {

class CudaStream;

// One of the backend's memories.
struct Place {
  explicit Place(int on) : device(on) {}
  bool is_host() const { return device == kHostMemory; }

  int device;                          // its number, or kHostMemory
  cudaStream_t copies = nullptr;       // copies from the host; null if this is the host's memory
  std::unique_ptr<DeviceClock> clock;  // null unless a trace is kept on a device
};

struct World {
  std::vector<Place> places;
  std::vector<CudaStream*> streams;  // streams of devices; they outlive the host's streams
  Failure lost;                      // error of a device, after which no device runs anything
  CpuStream::Shared host;            // of the host's streams

  int device() const { return places[0].device; }
  void fail() { lost.raise(std::current_exception()); }
  // Hands over to the devices all commands whose waits allow it (cuda_stream.cc).
  void advance();
  void look() const;  // throws the error of a device, if there is one
};

// State that the backend keeps for an Event, from the first command that names it.
struct EventBody {
  cudaEvent_t event = nullptr;  // null until a stream of a device records it
  bool is_hosts = false;        // true: a stream of the host records the event
  Block word;                   // an int64 in pinned memory, for the host and every device
  int64_t enqueued = 0;         // the last value whose record was handed over
  // A Patience for each event, because rounds and prompt pieces take different times.
  Patience patience;

  explicit EventBody(int device);
  ~EventBody();
  EventBody(const EventBody&) = delete;

  // Records the event on `stream`. All calls must use streams of the same device.
  void record(cudaStream_t stream);
  int64_t* there() const { return static_cast<int64_t*>(word.device); }
};

EventBody& body_of(Event& event, int device);

}  // namespace sbrt
