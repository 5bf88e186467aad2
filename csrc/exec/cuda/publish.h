// A device's stream reports its progress to the host with a kernel that writes a word of pinned
// memory. It waits for the host with a kernel that polls such a word.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sbrt {

// Enqueues the write *word = value after all earlier work of the stream. When the host reads the
// value, it also sees everything that was written before.
cudaError_t publish_on(cudaStream_t stream, int64_t* word, int64_t value);

// Enqueues a wait for *word >= value. A thread of the host stores this value. Later work of the
// stream sees what that thread wrote before. That thread must not depend on later commands of the
// device or of the calling thread.
cudaError_t await_on(cudaStream_t stream, const int64_t* word, int64_t value);

// Returns cudaSuccess if this binary has code for the current device, and the error otherwise. The
// call also loads the kernels: a kernel must not be loaded while another one waits for the host.
cudaError_t has_code();

}  // namespace sbrt
