// Allocates memory of a device, and pinned memory of the host. Both are zeroed.
#pragma once

#include "exec/cells.h"
#include "exec/cuda/call.h"

namespace sbrt {

// Returns device memory, together with a pinned copy for the host. The memory is zeroed on
// `stream`, which is idle afterwards.
Block device_block(size_t bytes, int device, cudaStream_t stream);
// Returns zeroed device memory without a copy for the host.
Block scratch_block(size_t bytes, int device, cudaStream_t stream);
// Returns pinned host memory. It has an address for the host and an address for the device.
Block pinned_block(size_t bytes, int device);

}  // namespace sbrt
