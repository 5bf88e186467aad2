// Compiled with AVX-512 flags. Code in this file may run only after kernels_named() has checked
// that the machine has AVX-512. The file must not share anything of external linkage with other
// files (see kernels_simd.inc).
#if defined(__x86_64__)
#define SBRT_KERNELS kKernelsAvx512
#define SBRT_KERNELS_NAME "avx512"
#include "ops/simd_avx512.h"
#include "ops/kernels_simd.inc"
#endif
