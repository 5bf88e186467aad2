#define SBRT_INTEGERS kIntegersPortable
#define SBRT_INTEGERS_NAME "portable"
#include "ops/dot_portable.h"

#include "ops/integers_simd.inc"
