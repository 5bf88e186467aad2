// Memory of a device and pinned memory of the host, both zeroed.
#pragma once

#include "exec/cells.h"
#include "exec/cuda/call.h"

namespace sbrt {

// A device block has a pinned copy for the host, unless it is scratch memory. `stream` writes its zeros
// and is idle on return.
Block device_block(size_t bytes, int device, cudaStream_t stream);
Block scratch_block(size_t bytes, int device, cudaStream_t stream);
// A pinned block is one memory with a host address and a device address.
Block pinned_block(size_t bytes, int device);

}  // namespace sbrt
