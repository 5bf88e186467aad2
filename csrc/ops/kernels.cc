#include "ops/kernels.h"

#include "core/check.h"

namespace sbrt {

extern const Kernels kKernelsPortable;
#if defined(__x86_64__)
extern const Kernels kKernelsAvx2, kKernelsAvx512;
#elif defined(__aarch64__)
extern const Kernels kKernelsNeon;
#endif

std::vector<const Kernels*> kernels_here() {
  std::vector<const Kernels*> found;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  if (avx512) found.push_back(&kKernelsAvx512);
  if (avx2) found.push_back(&kKernelsAvx2);
#elif defined(__aarch64__)
  found.push_back(&kKernelsNeon);
#endif
  found.push_back(&kKernelsPortable);
  return found;
}

const Kernels& kernels_named(std::string_view name) {
  std::string have;
  for (const Kernels* k : kernels_here()) {
    if (name == "auto" || name == k->name) return *k;
    have += sentence(", ", k->name);
  }
  throw InvalidInput(sentence("instruction set: expected one of auto", have, " but got ", name));
}

}  // namespace sbrt
