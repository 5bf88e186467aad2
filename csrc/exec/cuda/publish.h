// A stream reports its progress to the host with a kernel that writes one word of pinned memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sbrt {

// Enqueues the write *word = value after all earlier work of the stream. When the host reads the
// value, it also sees everything that was written before.
cudaError_t publish_on(cudaStream_t stream, int64_t* word, int64_t value);

// Returns cudaSuccess if this binary has code for the current device, and the CUDA error otherwise.
cudaError_t has_code();

}  // namespace sbrt
