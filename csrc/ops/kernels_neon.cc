// No check of the machine is needed, because every aarch64 machine has these instructions.
#if defined(__aarch64__)
#define SBRT_KERNELS kKernelsNeon
#define SBRT_KERNELS_NAME "neon"
#include "ops/simd_neon.h"
#include "ops/kernels_simd.inc"
#endif
