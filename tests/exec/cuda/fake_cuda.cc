#include "fake_cuda.h"

#include <cuda_profiler_api.h>
#include <cuda_runtime_api.h>

#include <time.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "exec/cuda/publish.h"

namespace fake {

Counts counts;
int64_t now = 5'000'000'000;
std::atomic<bool> broken = false;
thread_local int current = 0;

namespace {

bool is_held = false, has_threads = false;
std::map<const void*, void (*)(const void*)> works;
int naps_left = 0;  // naps until the device is released; 0: not counted
std::deque<std::function<void()>> held;

// Runs a stream's work in order.
class Thread {
 public:
  ~Thread() {
    post(nullptr);
    thread_.join();
  }
  void post(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
    changed_.notify_all();
  }
  // Returns once the stream has no work left.
  void finish() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return queue_.empty(); });
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return !queue_.empty(); });
      const std::function<void()> work = queue_.front();
      if (!work) return;
      lock.unlock();
      work();
      lock.lock();
      queue_.pop_front();
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  std::thread thread_{[this] { run(); }};  // last: it starts after all other members exist
};

void enqueue(Thread* thread, std::function<void()> work) {
  if (thread) {
    thread->post(std::move(work));
  } else if (is_held) {
    held.push_back(std::move(work));
  } else {
    work();
  }
}

}  // namespace

void hold() { is_held = true; }
void let_go() {
  is_held = false;
  for (; !held.empty(); held.pop_front()) held.front()();
}
void let_go_after(int naps) {
  hold();
  naps_left = naps;
}
void use_threads() { has_threads = true; }
void set_work(const void* kernel, void (*does)(const void*)) { works[kernel] = does; }

}  // namespace fake

struct CUstream_st {
  int device = fake::current;
  int64_t clock = 0;
  std::unique_ptr<fake::Thread> thread =
      fake::has_threads ? std::make_unique<fake::Thread>() : nullptr;
};
struct CUevent_st {
  bool has_time = false;
  int device = fake::current;
  std::atomic<int64_t> time = 0;
  int64_t records = 0;
  std::atomic<int64_t> passed = 0;  // of them

  bool is_pending() const { return passed != records; }
};
struct Kernel {
  const int64_t* ns;
  const void* args;
};
struct CUgraph_st {
  std::vector<Kernel> kernels;
};
struct CUgraphExec_st {
  std::vector<Kernel> kernels;
  int device = fake::current;
};

namespace {

int64_t& clock_of(cudaStream_t stream, int64_t enqueued) {
  return stream->clock = std::max(stream->clock, enqueued);
}

void run(const std::vector<Kernel>& kernels, cudaStream_t stream, int64_t at) {
  for (const Kernel& kernel : kernels) {
    clock_of(stream, at) += *kernel.ns;
    const auto work = fake::works.find(kernel.ns);
    if (work != fake::works.end()) work->second(kernel.args);
  }
}

cudaError_t made_stream(cudaStream_t* stream) {
  *stream = new CUstream_st;
  return cudaSuccess;
}

}  // namespace

extern "C" {

// Replaces the C library's nanosleep: it counts each sleep of the host as a nap, and sleeps.
int nanosleep(const timespec* span, timespec*) {
  if (fake::has_threads) return clock_nanosleep(CLOCK_MONOTONIC, 0, span, nullptr);
  ++fake::counts.naps;
  const int64_t ns = span->tv_sec * 1'000'000'000 + span->tv_nsec;
  fake::counts.longest_nap = std::max(fake::counts.longest_nap, ns);
  if (fake::naps_left > 0 && --fake::naps_left == 0) fake::let_go();
  return clock_nanosleep(CLOCK_MONOTONIC, 0, span, nullptr);
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an error";
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = fake::current, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return fake::current = device, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 2, cudaSuccess; }
cudaError_t cudaProfilerStart() { return ++fake::counts.captures, cudaSuccess; }
cudaError_t cudaProfilerStop() { return --fake::counts.captures, cudaSuccess; }

cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  *lowest = 0;
  *highest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  return made_stream(stream);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return made_stream(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream->thread) return stream->thread->finish(), cudaSuccess;
  ++fake::counts.waits;
  fake::let_go();
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t) {
  return fake::broken ? cudaErrorLaunchFailure : cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  fake::enqueue(stream->thread.get(), [stream, event, at = fake::now, record = event->records] {
    while (event->passed < record) std::this_thread::yield();
    clock_of(stream, at) = std::max(stream->clock, event->time.load());
  });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st;
  (*event)->has_time = (flags & cudaEventDisableTiming) == 0;
  ++fake::counts.events;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  --fake::counts.events;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (event->device != stream->device) return cudaErrorInvalidResourceHandle;
  fake::counts.records += event->has_time;
  ++event->records;
  fake::enqueue(stream->thread.get(), [event, stream, at = fake::now] {
    event->time = clock_of(stream, at);
    ++event->passed;
  });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (fake::broken) return cudaErrorLaunchFailure;
  return event->is_pending() ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  ++fake::counts.waits;
  fake::let_go();
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end) {
  if (!begin->has_time || !end->has_time || begin->device != end->device)
    return cudaErrorInvalidResourceHandle;
  if (begin->is_pending() || end->is_pending()) return cudaErrorNotReady;
  *ms = static_cast<float>(static_cast<double>(end->time - begin->time) / 1e6);
  return cudaSuccess;
}

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned) {
  *graph = new CUgraph_st;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t*,
                                   size_t, const cudaKernelNodeParams* kernel) {
  graph->kernels.push_back({static_cast<const int64_t*>(kernel->func),
                            kernel->kernelParams ? *kernel->kernelParams : nullptr});
  *node = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                       const cudaGraphNode_t*, size_t, cudaGraph_t child) {
  graph->kernels.insert(graph->kernels.end(), child->kernels.begin(), child->kernels.end());
  *node = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  *made = new CUgraphExec_st{graph->kernels};
  ++fake::counts.graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t made) {
  --fake::counts.graphs;
  delete made;
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphDebugDotPrint(cudaGraph_t, const char*, unsigned) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t made, cudaStream_t stream) {
  if (made->device != stream->device) return cudaErrorInvalidResourceHandle;
  ++fake::counts.launches;
  fake::enqueue(stream->thread.get(),
                [made, stream, at = fake::now] { run(made->kernels, stream, at); });
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** there, size_t bytes) {
  return (*there = std::malloc(bytes)) ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void* there) { return std::free(there), cudaSuccess; }
cudaError_t cudaHostAlloc(void** host, size_t bytes, unsigned) { return cudaMalloc(host, bytes); }
cudaError_t cudaFreeHost(void* host) { return cudaFree(host); }
cudaError_t cudaHostGetDevicePointer(void** there, void* host, unsigned) {
  return *there = host, cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* there, int value, size_t bytes, cudaStream_t) {
  return std::memset(there, value, bytes), cudaSuccess;
}
cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device,
                                size_t bytes, cudaStream_t stream) {
  fake::enqueue(stream->thread.get(), [=, at = fake::now] {
    clock_of(stream, at) += fake::kCopy;
    std::memcpy(to, from, bytes);
  });
  fake::counts.peer_copies += to_device != from_device;
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t bytes, size_t rows, cudaMemcpyKind, cudaStream_t stream) {
  fake::enqueue(stream->thread.get(), [=, at = fake::now] {
    clock_of(stream, at) += fake::kCopy;
    for (size_t row = 0; row < rows; ++row)
      std::memcpy(static_cast<char*>(to) + row * to_pitch,
                  static_cast<const char*>(from) + row * from_pitch, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 1, cudaSuccess; }
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return ++fake::counts.peers, cudaSuccess; }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  fake::enqueue(stream->thread.get(), [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
}

namespace sbrt {

cudaError_t publish_on(cudaStream_t stream, int64_t* word, int64_t value) {
  if (fake::current != stream->device) return cudaErrorInvalidResourceHandle;
  fake::enqueue(stream->thread.get(), [word, value] { std::atomic_ref(*word).store(value); });
  return cudaSuccess;
}

// Works only if streams have threads.
cudaError_t await_on(cudaStream_t stream, const int64_t* word, int64_t value) {
  fake::enqueue(stream->thread.get(), [word = const_cast<int64_t*>(word), value] {
    while (std::atomic_ref(*word).load() < value) std::this_thread::yield();
  });
  return cudaSuccess;
}

cudaError_t has_code() { return cudaSuccess; }

}  // namespace sbrt
