// Compiled with the flags of its name: nothing here may be reached before the machine was asked.
#if defined(__aarch64__)
#define SBRT_INTEGERS kIntegersDotprod
#define SBRT_INTEGERS_NAME "dotprod"
#include "ops/dot_neon.h"

#include "ops/integers_body.inc"
#endif
