// A stream reports its progress to the host with a kernel that writes one word of pinned memory. It
// waits for the host with a kernel that reads one.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sbrt {

// Enqueues the write *word = value after all earlier work of the stream. When the host reads the
// value, it also sees everything that was written before.
cudaError_t publish_on(cudaStream_t stream, int64_t* word, int64_t value);

// Enqueues a wait for *word >= value, which a thread of the host stores. Later work sees what was
// written before. Enqueue it only if that thread depends on no later command of the device or of
// the calling thread.
cudaError_t await_on(cudaStream_t stream, const int64_t* word, int64_t value);

// Success if this binary has code for the current device, else the error. It also loads the
// kernels, because that must not happen while one waits.
cudaError_t has_code();

}  // namespace sbrt
