#include "fake_cuda.h"

#include <cuda_profiler_api.h>
#include <cuda_runtime_api.h>

#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#include "exec/cuda/publish.h"

namespace fake {

Counts counts;
int64_t now = 5'000'000'000;
bool broken = false;
int current = 0;

namespace {

bool is_held = false;
int naps_left = 0;  // number of naps until the device is released; 0: no limit
std::deque<std::function<void()>> held;

void enqueue(std::function<void()> work) {
  if (is_held) {
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

}  // namespace fake

struct CUstream_st {
  int device = fake::current;
  int64_t clock = 0;
};
struct CUevent_st {
  bool has_time = false;
  int device = fake::current;
  int64_t time = 0;
  int pending = 0;
};
struct CUgraph_st {
  std::vector<const int64_t*> kernels;
};
struct CUgraphExec_st {
  std::vector<const int64_t*> kernels;
  int device = fake::current;
};

namespace {

int64_t& clock_of(cudaStream_t stream, int64_t enqueued) {
  return stream->clock = std::max(stream->clock, enqueued);
}

cudaError_t made_stream(cudaStream_t* stream) {
  *stream = new CUstream_st;
  return cudaSuccess;
}

}  // namespace

extern "C" {

// Replaces the C library's nanosleep: it counts each sleep of the host as a nap, and sleeps.
int nanosleep(const timespec* span, timespec*) {
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
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  ++fake::counts.waits;
  fake::let_go();
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t) {
  return fake::broken ? cudaErrorLaunchFailure : cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  fake::enqueue([stream, event, at = fake::now] {
    clock_of(stream, at) = std::max(stream->clock, event->time);
  });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st{(flags & cudaEventDisableTiming) == 0};
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
  ++event->pending;
  fake::enqueue([event, stream, at = fake::now] {
    event->time = clock_of(stream, at);
    --event->pending;
  });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (fake::broken) return cudaErrorLaunchFailure;
  return event->pending ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  ++fake::counts.waits;
  fake::let_go();
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end) {
  if (!begin->has_time || !end->has_time || begin->device != end->device)
    return cudaErrorInvalidResourceHandle;
  if (begin->pending || end->pending) return cudaErrorNotReady;
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
  graph->kernels.push_back(static_cast<const int64_t*>(kernel->func));
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
  fake::enqueue([made, stream, at = fake::now] {
    for (const int64_t* ns : made->kernels) clock_of(stream, at) += *ns;
  });
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
  fake::enqueue([=, at = fake::now] {
    clock_of(stream, at) += fake::kCopy;
    std::memcpy(to, from, bytes);
  });
  fake::counts.peer_copies += to_device != from_device;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 1, cudaSuccess; }
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return ++fake::counts.peers, cudaSuccess; }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  return std::memcpy(to, from, bytes), cudaSuccess;
}
}

namespace sbrt {

cudaError_t publish_on(cudaStream_t stream, int64_t* word, int64_t value) {
  if (fake::current != stream->device) return cudaErrorInvalidResourceHandle;
  fake::enqueue([word, value] { std::atomic_ref(*word).store(value); });
  return cudaSuccess;
}

cudaError_t has_code() { return cudaSuccess; }

}  // namespace sbrt
