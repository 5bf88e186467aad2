#include "core/check.h"
#if defined(SBRT_WITH_CUDA) && SBRT_WITH_CUDA
#include <algorithm>
#include <cmath>
#include <limits>

#include "exec/cuda/timing.h"

namespace sbrt {
namespace {

// The number of commands in flight that can be timed. This is enough for two rounds of the longest
// bursts. If more commands are in flight, the trace lacks some of them. This can happen while
// forwards are measured.
constexpr size_t kSlices = 512;

// In milliseconds. CUDA gives an elapsed time as a float of milliseconds, whose resolution is 61 ns
// after one second. So after this time read() replaces the known event (timing.h) by a newer one.
constexpr float kFar = 1000;

}  // namespace

// Records the known event several times, and keeps the attempt that took the shortest time, which
// is the most exact. The device is assumed to pass the event in the middle of the attempt. So the
// error is at most half of the attempt's time.
void DeviceClock::set(cudaStream_t idle) {
  constexpr int kTries = 5;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int i = 0; i < kTries; ++i) {
    const int64_t begin = Trace::now();
    tried_.record(idle);
    checked(cudaEventSynchronize(tried_.get()), "cudaEventSynchronize");
    const int64_t took = Trace::now() - begin;
    if (took >= least) continue;
    least = took;
    at_ = begin + took / 2;
    std::swap(known_, tried_);
  }
}

int64_t DeviceClock::read(TimedEvent& event) {
  float ms = 0;
  checked(cudaEventElapsedTime(&ms, known_.get(), event.get()), "cudaEventElapsedTime");
  const int64_t at = at_ + std::llround(static_cast<double>(ms) * 1e6);
  if (ms > kFar) {
    std::swap(known_, event);
    at_ = at;
  }
  return at;
}

Timings::Timings(DeviceClock& clock, Trace& trace)
    : clock_(clock), trace_(trace), slices_(kSlices) {}

void Timings::begin(cudaStream_t stream) {
  if (is_open_) return;
  if (ended_ - collected_ == slices_.size()) collect();
  if (ended_ - collected_ == slices_.size()) return;
  slices_[ended_ % slices_.size()].begin.record(stream);
  is_open_ = true;
}

void Timings::end(cudaStream_t stream, const char* name, bool is_wait) {
  if (!is_open_) return;
  Slice& slice = slices_[ended_ % slices_.size()];
  slice.end.record(stream);
  slice.name = name;
  slice.is_wait = is_wait;
  ++ended_;
  is_open_ = false;
}

void Timings::collect() {
  for (; collected_ < ended_; ++collected_) {
    Slice& slice = slices_[collected_ % slices_.size()];
    if (!slice.end.is_over()) return;
    const int64_t begin = clock_.read(slice.begin), end = clock_.read(slice.end);
    trace_.put(slice.name, begin, std::max(begin, end), slice.is_wait);
  }
}

}  // namespace sbrt
#endif
