// The cuda body: a stream is a cudaStream_t, an event a cudaEvent_t with a word of pinned memory that
// the host looks at, a graph a cudaGraphExec_t.
//
// CUDA lets nobody wait for what is not recorded yet, and a round's target waits for a burst that is
// enqueued behind it. So each stream keeps a queue on the host: what stands behind such a wait is
// handed over as soon as the record is.
#include "core/check.h"
#if defined(SBRT_WITH_CUDA) && SBRT_WITH_CUDA
#include <time.h>

#include <algorithm>
#include <unordered_map>

#include "exec/command.h"
#include "exec/cuda/call.h"
#include "exec/cuda/device_graph.h"
#include "exec/cuda/device_memory.h"
#include "exec/cuda/nvtx.h"
#include "exec/cuda/publish.h"
#include "exec/exec.h"

namespace sbrt {
namespace {

class CudaStream;

// What the streams of an engine share. The first error is there for good: a device that failed once
// runs nothing any more.
struct World {
  int device;
  std::vector<CudaStream*> streams;
  std::exception_ptr failure;

  void fail() {
    if (!failure) failure = std::current_exception();
  }
};

// What the body keeps of an Event.
struct EventBody {
  int device;
  cudaEvent_t event = nullptr;
  Block word;            // an int64, pinned
  int64_t enqueued = 0;  // the last value whose record was handed over

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

class CudaStream final : public Stream {
 public:
  CudaStream(World& world, const StreamKind& kind) : world_(world) {
    queue_.reserve(kReserve);
    int lowest = 0, highest = 0;
    checked(cudaDeviceGetStreamPriorityRange(&lowest, &highest),
            "cudaDeviceGetStreamPriorityRange");
    checked(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                         kind.urgent ? highest : lowest),
            "cudaStreamCreateWithPriority");
    world_.streams.push_back(this);
  }

  // What was enqueued runs to its end; nothing is freed under it.
  ~CudaStream() override {
    std::erase(world_.streams, this);
    const OnDevice here(world_.device, std::nothrow);
    if (!here.is_there()) return;
    static_cast<void>(cudaStreamSynchronize(stream_));
    graphs_.clear();
    static_cast<void>(cudaStreamDestroy(stream_));
  }

  void launch(const Graph& graph, int) override { push({Command::kLaunch, 1, &graph, nullptr, 0}); }
  void wait(Event& event, int64_t value) override {
    push({Command::kWait, 1, nullptr, &event, value});
  }
  void record(Event& event, int64_t value) override {
    push({Command::kRecord, 1, nullptr, &event, value});
  }
  const Trace& trace() const override { return trace_; }
  void* handle() const override { return stream_; }

  void prepare(const Graph& graph) override {
    const OnDevice here(world_.device);
    graphs_.try_emplace(&graph, graph, stream_);
  }

  // Hands over what can be; whether that was anything.
  bool advance() {
    const size_t before = next_;
    while (next_ < queue_.size() && hand_over(queue_[next_])) ++next_;
    const bool moved = next_ != before;
    if (next_ == queue_.size()) {
      queue_.clear();
      next_ = 0;
    }
    return moved;
  }

  // Throws what broke the device.
  void look() const {
    const cudaError_t state = cudaStreamQuery(stream_);
    if (state != cudaErrorNotReady) checked(state, "cudaStreamQuery");
  }

 private:
  static constexpr size_t kReserve = 512;

  void push(const Command& command) {
    const OnDevice here(world_.device);
    queue_.push_back(command);
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

  bool wait_for(Event& event, int64_t value) {
    if (event.reached() >= value) return true;
    const EventBody& body = body_of(event, world_.device);
    if (body.enqueued < value) return false;
    checked(cudaStreamWaitEvent(stream_, body.event, 0), "cudaStreamWaitEvent");
    return true;
  }

  // Other streams first, then the host.
  void put_record(Event& event, int64_t value) {
    EventBody& body = body_of(event, world_.device);
    checked(cudaEventRecord(body.event, stream_), "cudaEventRecord");
    checked(publish_on(stream_, body.there(), value), "publish");
    body.enqueued = value;
  }

  void put_graph(const Graph& graph) {
    const auto at = graphs_.find(&graph);
    check(at != graphs_.end(), "graph ", graph.name(), ": expected a prepared one");
    const NvtxRange range(at->second.range());
    at->second.launch(stream_);
  }

  World& world_;
  cudaStream_t stream_ = nullptr;
  std::unordered_map<const Graph*, DeviceGraph> graphs_;
  std::vector<Command> queue_;
  size_t next_ = 0;
  Trace trace_{1};
};

void nap(int64_t ns) {
  const timespec span{ns / 1'000'000'000, static_cast<long>(ns % 1'000'000'000)};
  nanosleep(&span, nullptr);
}

// How the host waits: it sleeps through most of the shortest of its last waits, looks again and again
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

class CudaExec final : public Exec {
 public:
  explicit CudaExec(int device) : world_{device, {}, nullptr} {
    const OnDevice here(device);
    checked(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking),
            "cudaStreamCreateWithFlags");
  }
  ~CudaExec() override { static_cast<void>(cudaStreamDestroy(copies_)); }

  bool reach(Event& event, int64_t value, int64_t until) override {
    patience_.begin();
    while (event.reached() < value) {
      if (world_.failure) return true;
      if (patience_.wait()) look_for_errors(event, value);
      if (Trace::now() >= until) return false;
    }
    patience_.end();
    return true;
  }

  void rethrow() override {
    if (world_.failure) std::rethrow_exception(world_.failure);
  }
  void forget() override {}  // a device does not recover

  bool is_device() const override { return true; }
  void upload(const Block& block, size_t bytes) override {
    const OnDevice here(world_.device);
    checked(cudaMemcpyAsync(block.device, block.host, bytes, cudaMemcpyHostToDevice, copies_),
            "cudaMemcpyAsync");
    checked(cudaStreamSynchronize(copies_), "cudaStreamSynchronize");
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
  void look_for_errors(Event& event, int64_t value) {
    try {
      const OnDevice here(world_.device);
      for (const CudaStream* stream : world_.streams) stream->look();
      check(body_of(event, world_.device).enqueued >= value, "exec: nobody will ever record ",
            event.name(), " = ", value);
    } catch (...) {
      world_.fail();
    }
  }

  World world_;
  cudaStream_t copies_ = nullptr;
  Patience patience_;
};

// What stands in the way of `device`; null if nothing does. Only `closely` makes a context there.
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
