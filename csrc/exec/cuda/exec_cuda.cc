// The cuda backend: a stream is a cudaStream_t, an event a cudaEvent_t with a word of pinned memory
// that the host reads, a graph a cudaGraphExec_t.
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

// State that the streams of an engine share. The first error stays: a device that failed once runs
// nothing more.
struct World {
  int device;
  std::vector<CudaStream*> streams;
  std::exception_ptr failure;

  void fail() {
    if (!failure) failure = std::current_exception();
  }
};

// State that the backend keeps for an Event.
struct EventBody {
  int device;
  cudaEvent_t event = nullptr;
  Block word;            // an int64, pinned
  int64_t enqueued = 0;  // the last value whose record was handed over
  Patience patience;     // one per event: rounds and pieces of a prompt take different times

  explicit EventBody(int on) : device(on), word(pinned_block(sizeof(int64_t), on)) {
    checked(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }
  ~EventBody() {
    if (event) static_cast<void>(cudaEventDestroy(event));
  }
  EventBody(const EventBody&) = delete;

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
  CudaStream(World& world, const StreamKind& kind) : world_(world), has_ranges_(kind.nvtx) {
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
    const OnDevice here(world_.device, std::nothrow);
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
    const OnDevice here(world_.device);
    graphs_.try_emplace(&graph, graph, stream_);
  }

  void fuse(const Graph& graph) override {
    if (is_fused(graph) || is_played(graph)) return;
    const OnDevice here(world_.device);
    fused_.put(graph, fused_graph(graph, stream_));
  }
  bool is_fused(const Graph& graph) const override { return fused_.find(graph) != nullptr; }
  int fused() const override { return fused_.size(); }

  // Hands over as many commands as possible. Returns true if there were any.
  bool advance() {
    return queue_.advance([this](const Command& command) { return hand_over(command); });
  }

  // Null: stops keeping times. The caller ensures that nothing is in flight.
  void keep_times(DeviceClock* clock) {
    collect();
    timings_.reset();
    if (!clock) return;
    trace_ = Trace(kTraceEvents);
    timings_ = std::make_unique<Timings>(*clock, trace_);
  }
  void collect() {
    if (!timings_ || world_.failure) return;
    try {
      timings_->collect();
    } catch (...) {
      world_.fail();
    }
  }

  // Throws the error that broke the device.
  void look() const { static_cast<void>(is_done(cudaStreamQuery(stream_), "cudaStreamQuery")); }

 private:
  void push(const Command& command) override {
    const OnDevice here(world_.device);
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
    const EventBody& body = body_of(event, world_.device);
    if (event.reached() < value) {
      if (body.enqueued < value) return false;
      checked(cudaStreamWaitEvent(stream_, body.event, 0), "cudaStreamWaitEvent");
    }
    end_slice(event.name(), true);
    return true;
  }

  // Wakes other streams first, then the host.
  void put_record(Event& event, int64_t value) {
    EventBody& body = body_of(event, world_.device);
    checked(cudaEventRecord(body.event, stream_), "cudaEventRecord");
    checked(publish_on(stream_, body.there(), value), "publish");
    body.enqueued = value;
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
  explicit CudaExec(int device) : world_{device, {}, nullptr} {
    const OnDevice here(device);
    checked(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking),
            "cudaStreamCreateWithFlags");
  }
  ~CudaExec() override { static_cast<void>(cudaStreamDestroy(copies_)); }

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

  Capabilities can() const override { return capabilities_of(Body::cuda); }
  void copy_over(const Block& block, size_t begin, size_t bytes) override {
    const OnDevice here(world_.device);
    checked(cudaMemcpyAsync(static_cast<std::byte*>(block.device) + begin,
                            static_cast<std::byte*>(block.host) + begin, bytes,
                            cudaMemcpyHostToDevice, copies_),
            "cudaMemcpyAsync");
    checked(cudaStreamSynchronize(copies_), "cudaStreamSynchronize");
    collect();
    if (clock_) clock_->set(copies_);  // set again because the two clocks drift apart
  }

  void keep_trace(bool is_on) override {
    const OnDevice here(world_.device);
    for (CudaStream* stream : world_.streams) stream->keep_times(nullptr);
    clock_.reset();
    if (!is_on) return;
    clock_ = std::make_unique<DeviceClock>();
    clock_->set(copies_);
    for (CudaStream* stream : world_.streams) stream->keep_times(clock_.get());
  }
  void profile(bool is_on) override {
    const OnDevice here(world_.device);
    if (is_on) {
      checked(cudaProfilerStart(), "cudaProfilerStart");
    } else {
      checked(cudaProfilerStop(), "cudaProfilerStop");
    }
  }

 protected:
  std::unique_ptr<Stream> make_stream(int, const StreamKind& kind) override {
    const OnDevice here(world_.device);
    return std::make_unique<CudaStream>(world_, kind);
  }
  Block allocate(size_t bytes, Where where) override {
    const OnDevice here(world_.device);
    return where == Where::pinned ? pinned_block(bytes, world_.device)
                                  : device_block(bytes, world_.device, copies_);
  }

 private:
  void collect() {
    if (!clock_) return;
    const OnDevice here(world_.device);
    for (CudaStream* stream : world_.streams) stream->collect();
  }

  Patience& patience_of(Event& event) const {
    const OnDevice here(world_.device);
    return body_of(event, world_.device).patience;
  }

  void look_for_errors(Event& event, int64_t value) {
    try {
      const OnDevice here(world_.device);
      for (const CudaStream* stream : world_.streams) stream->look();
      check(body_of(event, world_.device).enqueued >= value, "exec: no command will record ",
            event.name(), " = ", value);
    } catch (...) {
      world_.fail();
    }
  }

  World world_;
  cudaStream_t copies_ = nullptr;
  std::unique_ptr<DeviceClock> clock_;  // only while a trace is kept
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

std::unique_ptr<Exec> make_cuda_exec(int device) {
  check_within("device: number", 0, 1023, device);
  const char* trouble = trouble_with(device, true);
  check<InvalidInput>(!trouble, "device: cuda cannot be used here: ", trouble ? trouble : "");
  return std::make_unique<CudaExec>(device);
}

}  // namespace sbrt
#endif
