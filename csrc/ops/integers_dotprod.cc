// Built with the compiler flags that the name of the file selects. Code in this file may run only
// after a check that the machine has these instructions.
#if defined(__aarch64__)
#define SBRT_INTEGERS kIntegersDotprod
#define SBRT_INTEGERS_NAME "dotprod"
#include "ops/dot_neon.h"

#include "ops/integers_simd.inc"
#endif
