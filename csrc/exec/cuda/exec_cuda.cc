// The cuda backend: a stream is a cudaStream_t, an event a cudaEvent_t with a word of pinned memory
// that the host reads, a graph a cudaGraphExec_t. Each memory is a device's; mail is a copy between
// devices.
//
// In CUDA a stream cannot wait for an event that is not recorded yet. But a round's target waits
// for a burst that is enqueued after it. So each stream keeps a queue on the host. Commands after
// such a wait are handed over as soon as the record is.
#include "core/check.h"
#if defined(SBRT_WITH_CUDA) && SBRT_WITH_CUDA
#include <cuda_profiler_api.h>

#include <algorithm>
#include <unordered_map>

#include "exec/command.h"
#include "exec/cuda/call.h"
#include "exec/cuda/device_graph.h"
#include "exec/cuda/device_memory.h"
#include "exec/cuda/patience.h"
#include "exec/cuda/publish.h"
#include "exec/cuda/timing.h"
#include "exec/exec.h"
#include "exec/fused.h"
#include "exec/nvtx.h"

namespace sbrt {
namespace {

class CudaStream;

// A device whose memory is one of the backend's.
struct Place {
  explicit Place(int on) : device(on) {}

  int device;
  cudaStream_t copies = nullptr;       // for copies from the host
  std::unique_ptr<DeviceClock> clock;  // only while a trace is kept
};

// State that the streams of an engine share. The first error stays: a device that failed once runs
// nothing more.
struct World {
  std::vector<Place> places;
  std::vector<CudaStream*> streams;
  std::exception_ptr failure;

  int device() const { return places[0].device; }
  void fail() {
    if (!failure) failure = std::current_exception();
  }
};

// State that the backend keeps for an Event.
struct EventBody {
  cudaEvent_t event = nullptr;  // of the device that records it
  Block word;                   // an int64, pinned: every device reaches it
  int64_t enqueued = 0;         // the last value whose record was handed over
  Patience patience;            // one per event: rounds and pieces of a prompt take different times

  explicit EventBody(int device) : word(pinned_block(sizeof(int64_t), device)) {}
  ~EventBody() {
    if (event) static_cast<void>(cudaEventDestroy(event));
  }
  EventBody(const EventBody&) = delete;

  // On the device of `stream`, which is always the same.
  void record(cudaStream_t stream) {
    if (!event)
      checked(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    checked(cudaEventRecord(event, stream), "cudaEventRecord");
  }
  int64_t* there() const { return static_cast<int64_t*>(word.device); }
};

EventBody& body_of(Event& event, int device) {
  if (!event.body()) {
    const auto body = std::make_shared<EventBody>(device);
    body->enqueued = event.reached();
    event.keep(body, static_cast<std::atomic<int64_t>*>(body->word.host));
  }
  return *static_cast<EventBody*>(event.body());
}

class CudaStream final : public CommandStream {
 public:
  CudaStream(World& world, const StreamKind& kind)
      : world_(world), device_(world.places[kind.place].device), has_ranges_(kind.nvtx) {
    int lowest = 0, highest = 0;
    checked(cudaDeviceGetStreamPriorityRange(&lowest, &highest),
            "cudaDeviceGetStreamPriorityRange");
    checked(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                         kind.urgent ? highest : lowest),
            "cudaStreamCreateWithPriority");
    world_.streams.push_back(this);
  }

  // Lets enqueued work run to its end before anything that it uses is freed.
  ~CudaStream() override {
    std::erase(world_.streams, this);
    const OnDevice here(device_, std::nothrow);
    if (!here.is_there()) return;
    static_cast<void>(cudaStreamSynchronize(stream_));
    timings_.reset();
    fused_.clear();
    graphs_.clear();
    static_cast<void>(cudaStreamDestroy(stream_));
  }

  const Trace& trace() override {
    collect();
    return trace_;
  }
  void* handle() const override { return stream_; }

  void prepare(const Graph& graph) override {
    const OnDevice here(device_);
    graphs_.try_emplace(&graph, graph, stream_);
  }

  void fuse(const Graph& graph) override {
    if (is_fused(graph) || is_played(graph)) return;
    const OnDevice here(device_);
    fused_.put(graph, fused_graph(graph, stream_));
  }
  bool is_fused(const Graph& graph) const override { return fused_.find(graph) != nullptr; }
  int fused() const override { return fused_.size(); }

  // Hands over as many commands as possible. Returns true if there were any.
  bool advance() {
    const OnDevice here(device_);
    return queue_.advance([this](const Command& command) { return hand_over(command); });
  }

  // Starts to keep times if its place has a clock, else stops. The caller ensures that nothing is in
  // flight.
  void keep_times() {
    const OnDevice here(device_);
    collect();
    timings_.reset();
    const auto place = std::ranges::find(world_.places, device_, &Place::device);
    if (!place->clock) return;
    trace_ = Trace(kTraceEvents);
    timings_ = std::make_unique<Timings>(*place->clock, trace_);
  }
  void collect() {
    if (!timings_ || world_.failure) return;
    try {
      const OnDevice here(device_);
      timings_->collect();
    } catch (...) {
      world_.fail();
    }
  }

  // Throws the error that broke the device.
  void look() const {
    const OnDevice here(device_);
    static_cast<void>(is_done(cudaStreamQuery(stream_), "cudaStreamQuery"));
  }

 private:
  void push(const Command& command) override {
    queue_.push(command);
    for (bool moved = true; moved;) {
      moved = false;
      for (CudaStream* stream : world_.streams) moved |= stream->advance();
    }
  }

  bool hand_over(const Command& c) {
    if (world_.failure) return true;
    try {
      if (c.kind == Command::kWait) return wait_for(*c.event, c.value);
      if (c.kind == Command::kRecord) {
        put_record(*c.event, c.value);
      } else if (c.kind == Command::kSend) {
        put_mail(*c.mail, c.seats);
      } else {
        put_graph(*c.graph);
      }
    } catch (...) {
      world_.fail();
    }
    return true;
  }

  // A wait that the host holds back counts from the point that the stream has reached.
  bool wait_for(Event& event, int64_t value) {
    begin_slice();
    const EventBody& body = body_of(event, world_.device());
    if (event.reached() < value) {
      if (body.enqueued < value) return false;
      checked(cudaStreamWaitEvent(stream_, body.event, 0), "cudaStreamWaitEvent");
    }
    end_slice(event.name(), true);
    return true;
  }

  // Wakes other streams first, then the host.
  void put_record(Event& event, int64_t value) {
    EventBody& body = body_of(event, world_.device());
    body.record(stream_);
    checked(publish_on(stream_, body.there(), value), "publish");
    body.enqueued = value;
  }

  void put_mail(const Mail& mail, SeatSet seats) {
    const int from = world_.places[mail.from].device, to = world_.places[mail.to].device;
    begin_slice();
    for (const Mail::Copy& copy : mail.copies)
      if (copy.is_of(seats))
        checked(cudaMemcpyPeerAsync(copy.to, to, copy.from, from, copy.bytes, stream_),
                "cudaMemcpyPeerAsync");
    end_slice(mail.name, false);
  }

  void put_graph(const Graph& graph) {
    const MadeGraph* whole = fused_.find(graph);
    const auto at = graphs_.find(&graph);
    check(whole || at != graphs_.end(), "graph ", graph.name(), ": expected a prepared one");
    const NvtxRange range(has_ranges_, graph.name());
    begin_slice();
    if (whole) {
      checked(cudaGraphLaunch(whole->get(), stream_), "cudaGraphLaunch");
    } else {
      at->second.launch(stream_);
    }
    end_slice(graph.name(), false);
  }

  void begin_slice() {
    if (timings_) timings_->begin(stream_);
  }
  void end_slice(const char* name, bool is_wait) {
    if (timings_) timings_->end(stream_, name, is_wait);
  }

  World& world_;
  int device_;
  bool has_ranges_;
  cudaStream_t stream_ = nullptr;
  std::unordered_map<const Graph*, DeviceGraph> graphs_;
  FusedGraphs<MadeGraph> fused_;
  CommandQueue<> queue_;
  Trace trace_{1};
  std::unique_ptr<Timings> timings_;  // only while a trace is kept
};

class CudaExec final : public Exec {
 public:
  explicit CudaExec(const std::vector<int>& devices) {
    for (const int device : devices) {
      const OnDevice here(device);
      Place& place = world_.places.emplace_back(device);
      checked(cudaStreamCreateWithFlags(&place.copies, cudaStreamNonBlocking),
              "cudaStreamCreateWithFlags");
      for (const int other : devices)
        if (other != device) reach_directly(device, other);
    }
  }
  ~CudaExec() override {
    for (const Place& place : world_.places) static_cast<void>(cudaStreamDestroy(place.copies));
  }

  bool reach(Event& event, int64_t value, int64_t until) override {
    collect();  // times of earlier rounds, while this round runs
    if (event.reached() >= value) return true;
    Patience& patience = patience_of(event);
    patience.begin(until);
    while (event.reached() < value) {
      if (world_.failure) return true;
      if (patience.wait()) look_for_errors(event, value);
      if (Trace::now() >= until) return false;
    }
    patience.end();
    return true;
  }

  void rethrow() override {
    if (world_.failure) std::rethrow_exception(world_.failure);
  }
  void forget() override {}  // a device does not recover

  Capabilities can() const override { return capabilities_of(Backend::cuda); }
  void copy_over(const Block& block, size_t begin, size_t bytes) override {
    Place& place = world_.places[block.place];
    const OnDevice here(place.device);
    checked(cudaMemcpyAsync(static_cast<std::byte*>(block.device) + begin,
                            static_cast<std::byte*>(block.host) + begin, bytes,
                            cudaMemcpyHostToDevice, place.copies),
            "cudaMemcpyAsync");
    checked(cudaStreamSynchronize(place.copies), "cudaStreamSynchronize");
    collect();
    if (place.clock) place.clock->set(place.copies);  // set again because the clocks drift apart
  }

  void keep_trace(bool is_on) override {
    std::vector<std::unique_ptr<DeviceClock>> old;  // streams may still use them
    for (Place& place : world_.places) {
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
  std::unique_ptr<Stream> make_stream(int, const StreamKind& kind) override {
    const OnDevice here(world_.places[kind.place].device);
    return std::make_unique<CudaStream>(world_, kind);
  }
  Block allocate(size_t bytes, Where where, int place) override {
    const auto& [device, copies, clock] = world_.places[place];
    const OnDevice here(device);
    Block made = where == Where::pinned    ? pinned_block(bytes, device)
                 : where == Where::scratch ? scratch_block(bytes, device, copies)
                                           : device_block(bytes, device, copies);
    made.place = place;
    return made;
  }

 private:
  // Lets a device access the memory of another, if it can. Otherwise a copy goes through the host.
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
      for (const CudaStream* stream : world_.streams) stream->look();
      check(body_of(event, world_.device()).enqueued >= value, "exec: no command will record ",
            event.name(), " = ", value);
    } catch (...) {
      world_.fail();
    }
  }

  World world_;
};

// The reason why `device` cannot be used, null if it can. Only `closely` creates a context there.
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
  if (second >= 0) devices.push_back(second);
  for (const int number : devices) {
    check_within("device: number", 0, 1023, number);
    const char* trouble = trouble_with(number, true);
    check<InvalidInput>(!trouble, "device: cuda:", number,
                        " cannot be used here: ", trouble ? trouble : "");
  }
  return std::make_unique<CudaExec>(devices);
}

}  // namespace sbrt
#endif
