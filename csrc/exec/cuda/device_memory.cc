#include "core/check.h"
#if defined(SBRT_WITH_CUDA) && SBRT_WITH_CUDA
#include <algorithm>
#include <cstring>

#include "exec/cuda/device_memory.h"

namespace sbrt {
namespace {

// Owns pinned memory and device memory; either pointer may be null.
struct Owned {
  int device = 0;
  void *host = nullptr, *there = nullptr;

  ~Owned() {
    const OnDevice here(device, std::nothrow);
    if (!here.is_there()) return;
    if (host) static_cast<void>(cudaFreeHost(host));
    if (there) static_cast<void>(cudaFree(there));
  }
};

std::shared_ptr<Owned> pinned(size_t bytes, int device) {
  const auto owned = std::make_shared<Owned>();
  owned->device = device;
  checked(cudaHostAlloc(&owned->host, bytes, cudaHostAllocPortable | cudaHostAllocMapped),
          "cudaHostAlloc");
  std::memset(owned->host, 0, bytes);
  return owned;
}

void add_device_memory(Owned& owned, size_t bytes, cudaStream_t stream) {
  checked(cudaMalloc(&owned.there, bytes), "cudaMalloc");
  checked(cudaMemsetAsync(owned.there, 0, bytes, stream), "cudaMemsetAsync");
  checked(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

}  // namespace

Block device_block(size_t bytes, int device, cudaStream_t stream) {
  bytes = std::max<size_t>(bytes, 1);
  const auto owned = pinned(bytes, device);
  add_device_memory(*owned, bytes, stream);
  return {owned, owned->host, owned->there, bytes};
}

Block scratch_block(size_t bytes, int device, cudaStream_t stream) {
  const auto owned = std::make_shared<Owned>();
  owned->device = device;
  add_device_memory(*owned, std::max<size_t>(bytes, 1), stream);
  return {owned, nullptr, owned->there, bytes};
}

Block pinned_block(size_t bytes, int device) {
  const auto owned = pinned(std::max<size_t>(bytes, 1), device);
  void* there = nullptr;
  checked(cudaHostGetDevicePointer(&there, owned->host, 0), "cudaHostGetDevicePointer");
  return {owned, owned->host, there, bytes};
}

}  // namespace sbrt
#endif
