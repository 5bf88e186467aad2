// Built with the compiler flags that the name of the file selects. Code in this file may run only
// after a check that the machine has these instructions.
#if defined(__x86_64__)
#define SBRT_INTEGERS kIntegersVnni256
#define SBRT_INTEGERS_NAME "vnni256"
#include "ops/dot_vnni256.h"

#include "ops/integers_simd.inc"
#endif
