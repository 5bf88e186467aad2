// Compiled with the flags of its name. Code here may run only after the machine was asked for these
// instructions.
#if defined(__aarch64__)
#define SBRT_INTEGERS kIntegersDotprod
#define SBRT_INTEGERS_NAME "dotprod"
#include "ops/dot_neon.h"

#include "ops/integers_body.inc"
#endif
