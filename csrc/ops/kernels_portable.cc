#define SBRT_KERNELS kKernelsPortable
#define SBRT_KERNELS_NAME "portable"
#include "ops/simd_portable.h"
#include "ops/kernels_simd.inc"
