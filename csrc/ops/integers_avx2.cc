// Built with the compiler flags that the name of the file selects. Code in this file may run only
// after a check that the machine has these instructions.
#if defined(__x86_64__)
#define SBRT_INTEGERS kIntegersAvx2
#define SBRT_INTEGERS_NAME "avx2"
#include "ops/dot_avx2.h"

#include "ops/integers_simd.inc"
#endif
