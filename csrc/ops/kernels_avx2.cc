// Compiled with AVX2 flags. Code in this file may run only after kernels_named() has checked that
// the machine has AVX2. The file must not share anything of external linkage with other files (see
// kernels_simd.inc).
#if defined(__x86_64__)
#define SBRT_KERNELS kKernelsAvx2
#define SBRT_KERNELS_NAME "avx2"
#include "ops/simd_avx2.h"
#include "ops/kernels_simd.inc"
#endif
