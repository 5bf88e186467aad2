// A stream reports its progress to the host with a kernel that writes one word of pinned memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sbrt {

// Enqueues *word = value after all earlier work. The host sees the value only after everything that
// was written before it.
cudaError_t publish_on(cudaStream_t stream, int64_t* word, int64_t value);

// Success if this binary has code for the current device, else the error.
cudaError_t has_code();

}  // namespace sbrt
