// Compiled with AVX-512 flags. Code in this file may run only after kernels_named() has checked
// that the machine has AVX-512. Nothing with external linkage may be shared with other files (see
// kernels_simd.inc).
#if defined(__x86_64__)
#define SBRT_KERNELS kKernelsAvx512
#define SBRT_KERNELS_NAME "avx512"
#include "ops/simd_avx512.h"
#include "ops/kernels_simd.inc"
#endif
