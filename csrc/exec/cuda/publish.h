// How a stream tells the host where it is: a kernel that writes one word of pinned memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sbrt {

// Behind all that was enqueued: *word = value, seen by the host after everything that was written before.
cudaError_t publish_on(cudaStream_t stream, int64_t* word, int64_t value);

// Whether this binary has code for the current device.
cudaError_t has_code();

}  // namespace sbrt
