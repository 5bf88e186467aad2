// Memory of a device and pinned memory of the host, both zeroed.
#pragma once

#include "exec/cells.h"
#include "exec/cuda/call.h"

namespace sbrt {

// `stream`: where zeros are written; idle when these return.
Block device_block(size_t bytes, int device, cudaStream_t stream);  // with the host's copy, pinned
Block pinned_block(size_t bytes, int device);                       // one memory, one address each

}  // namespace sbrt
