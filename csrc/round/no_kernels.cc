// Kernels in builds without CUDA: no op has one.
#include "round/kernels.h"

#if !defined(SBRT_WITH_CUDA) || !SBRT_WITH_CUDA
namespace sbrt {

const void* kernel_of(RoundOp) { return nullptr; }

}  // namespace sbrt
#endif
