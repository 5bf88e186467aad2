// The cuda backend. A stream is a cudaStream_t. An event is a cudaEvent_t with a word of pinned
// memory that the host reads. A graph is one or more cudaGraphExec_t. Each memory belongs to a
// device, and mail is a copy between devices. The second memory may be the host's. Then threads of
// the host run the ops that use this memory.
#include "core/check.h"
#if defined(SBRT_WITH_CUDA) && SBRT_WITH_CUDA
#include <cuda_profiler_api.h>

#include "exec/cuda/cuda_stream.h"
#include "exec/cuda/device_memory.h"
#include "exec/cuda/host_stream.h"
#include "exec/cuda/publish.h"

namespace sbrt {
namespace {

class CudaExec final : public Exec {
 public:
  explicit CudaExec(const std::vector<int>& devices) {
    for (const int device : devices) {
      Place& place = world_.places.emplace_back(device);
      if (place.is_host()) continue;
      const OnDevice here(device);
      checked(cudaStreamCreateWithFlags(&place.copies, cudaStreamNonBlocking),
              "cudaStreamCreateWithFlags");
      for (const int other : devices)
        if (other != device && other != kHostMemory) reach_directly(device, other);
    }
  }
  ~CudaExec() override {
    for (const Place& place : world_.places)
      if (!place.is_host()) static_cast<void>(cudaStreamDestroy(place.copies));
  }

  bool reach(Event& event, int64_t value, int64_t until) override {
    collect();  // reads the times of earlier rounds while this round runs
    if (event.reached() >= value) return true;
    Patience& patience = patience_of(event);
    patience.begin(until);
    while (event.reached() < value) {
      if (world_.lost.raised()) return true;
      if (patience.wait()) look_for_errors(event, value);
      if (Trace::now() >= until) return false;
    }
    patience.end();
    return true;
  }

  void rethrow() override {
    if (world_.lost.raised()) std::rethrow_exception(world_.lost.first());
    if (!world_.host.failure.raised()) return;
    for (const HostStream* stream : host_streams_) stream->drain();
    world_.host.failure.rethrow();
  }
  void forget() override { world_.host.failure.forget(); }  // an error of a device stays

  Capabilities can() const override { return can_at(0); }
  Capabilities can_at(int place) const override {
    return capabilities_of(world_.places[place].is_host() ? Backend::cpu : Backend::cuda);
  }
  void copy_over(const Block& block, size_t begin, size_t bytes) override {
    Place& place = world_.places[block.place];
    if (place.is_host()) return;
    const OnDevice here(place.device);
    checked(cudaMemcpyAsync(static_cast<std::byte*>(block.device) + begin,
                            static_cast<std::byte*>(block.host) + begin, bytes,
                            cudaMemcpyHostToDevice, place.copies),
            "cudaMemcpyAsync");
    checked(cudaStreamSynchronize(place.copies), "cudaStreamSynchronize");
    collect();
    // The clock is set again, because the device's clock and the host's clock drift apart.
    if (place.clock) place.clock->set(place.copies);
  }

  void keep_trace(bool is_on) override {
    // Keeps the old clocks until the end of this function, because streams still use them.
    std::vector<std::unique_ptr<DeviceClock>> old;
    for (Place& place : world_.places) {
      if (place.is_host()) continue;
      const OnDevice here(place.device);
      old.push_back(std::move(place.clock));
      if (!is_on) continue;
      place.clock = std::make_unique<DeviceClock>();
      place.clock->set(place.copies);
    }
    for (CudaStream* stream : world_.streams) stream->keep_times();
  }
  void profile(bool is_on) override {
    const OnDevice here(world_.device());
    if (is_on) {
      checked(cudaProfilerStart(), "cudaProfilerStart");
    } else {
      checked(cudaProfilerStop(), "cudaProfilerStop");
    }
  }

 protected:
  std::unique_ptr<Stream> make_stream(int threads, const StreamKind& kind) override {
    if (world_.places[kind.place].is_host()) {
      check_cores(kind.cores);
      auto stream = std::make_unique<HostStream>(world_, threads, kind);
      host_streams_.push_back(stream.get());
      return stream;
    }
    const OnDevice here(world_.places[kind.place].device);
    return std::make_unique<CudaStream>(world_, kind);
  }
  Block allocate(size_t bytes, Where where, int place) override {
    const Place& at = world_.places[place];
    const int device = at.is_host() ? world_.device() : at.device;
    const OnDevice here(device);
    const bool is_pinned = where == Where::pinned || at.is_host();
    Block made = is_pinned                 ? pinned_block(bytes, device)
                 : where == Where::scratch ? scratch_block(bytes, device, at.copies)
                                           : device_block(bytes, device, at.copies);
    if (at.is_host()) made.device = made.host;  // ops in this memory run on the host
    made.place = place;
    return made;
  }

 private:
  // Lets `device` access the memory of device `other`, if it can. If it cannot, CUDA copies through
  // the host.
  static void reach_directly(int device, int other) {
    int can = 0;
    checked(cudaDeviceCanAccessPeer(&can, device, other), "cudaDeviceCanAccessPeer");
    if (!can) return;
    const cudaError_t error = cudaDeviceEnablePeerAccess(other, 0);
    if (error != cudaErrorPeerAccessAlreadyEnabled) checked(error, "cudaDeviceEnablePeerAccess");
    static_cast<void>(cudaGetLastError());
  }

  void collect() {
    if (!world_.places[0].clock) return;
    for (CudaStream* stream : world_.streams) stream->collect();
  }

  Patience& patience_of(Event& event) const {
    const OnDevice here(world_.device());
    return body_of(event, world_.device()).patience;
  }

  void look_for_errors(Event& event, int64_t value) {
    try {
      const OnDevice here(world_.device());
      world_.look();
      check(body_of(event, world_.device()).enqueued >= value, "exec: no command will record ",
            event.name(), " = ", value);
    } catch (...) {
      world_.fail();
    }
  }

  World world_;
  std::vector<HostStream*> host_streams_;
};

// Returns the reason why `device` cannot be used, or null if it can be used. closely: also checks
// that this build has code for the device, which creates a context there.
const char* trouble_with(int device, bool closely) {
  int count = 0, before = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && device >= count) error = cudaErrorInvalidDevice;
  if (error == cudaSuccess && closely) {
    error = cudaGetDevice(&before);
    if (error == cudaSuccess) error = cudaSetDevice(device);
    if (error == cudaSuccess) error = has_code();
    static_cast<void>(cudaSetDevice(before));
  }
  static_cast<void>(cudaGetLastError());
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

std::string why_no_cuda() {
  const char* trouble = trouble_with(0, false);
  return trouble ? sentence("device: cuda cannot be used here: ", trouble) : std::string();
}

std::unique_ptr<Exec> make_cuda_exec(int device, int second) {
  std::vector<int> devices{device};
  if (second != kNoSecond) devices.push_back(second);
  for (const int number : devices) {
    if (number == kHostMemory) continue;
    check_within("device: number", 0, 1023, number);
    const char* trouble = trouble_with(number, true);
    check<InvalidInput>(!trouble, "device: cuda:", number,
                        " cannot be used here: ", trouble ? trouble : "");
  }
  return std::make_unique<CudaExec>(devices);
}

}  // namespace sbrt
#endif
