// Every aarch64 machine has these instructions, so no check is needed.
#if defined(__aarch64__)
#define SBRT_KERNELS kKernelsNeon
#define SBRT_KERNELS_NAME "neon"
#include "ops/simd_neon.h"
#include "ops/kernels_simd.inc"
#endif
