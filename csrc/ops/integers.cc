#include "ops/integers.h"

#include "core/check.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace sbrt {

extern const Integers kIntegersPortable;
#if defined(__x86_64__)
extern const Integers kIntegersAvx2, kIntegersVnni256, kIntegersVnni512;
#elif defined(__aarch64__)
extern const Integers kIntegersDotprod;
#endif

namespace {

#if defined(__x86_64__)
// Tests CPUID leaf 7, subleaf 1, EAX bit 4, because older compilers have no name for this feature.
bool has_avx_vnni() {
  uint32_t a = 7, b = 0, c = 1, d = 0;
  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return a >> 4 & 1;
}
#elif defined(__aarch64__)
bool has_dotprod() {
#if defined(__linux__)
  constexpr unsigned long kDotprod = 1ul << 20;  // HWCAP_ASIMDDP
  return getauxval(AT_HWCAP) & kDotprod;
#else
  return false;
#endif
}
#endif

}  // namespace

std::vector<const Integers*> integers_here() {
  std::vector<const Integers*> found;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  if (avx512) found.push_back(&kIntegersVnni512);
  if (avx2 && has_avx_vnni()) found.push_back(&kIntegersVnni256);
  if (avx2) found.push_back(&kIntegersAvx2);
#elif defined(__aarch64__)
  if (has_dotprod()) found.push_back(&kIntegersDotprod);
#endif
  found.push_back(&kIntegersPortable);
  return found;
}

const Integers& integers_named(std::string_view name) {
  std::string have;
  for (const Integers* k : integers_here()) {
    if (name == "auto" || name == k->name) return *k;
    have += sentence(", ", k->name);
  }
  throw InvalidInput(sentence("integer products: expected one of auto", have, " but got ", name));
}

const Integers& integers_beside(std::string_view kernels) {
  const std::string_view least = "portable";
  if (kernels == least) return integers_named(least);
  for (const Integers* k : integers_here())
    if (kernels != "avx2" || k->name != std::string_view("vnni512")) return *k;
  return integers_named(least);
}

}  // namespace sbrt
