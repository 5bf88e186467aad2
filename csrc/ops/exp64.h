// The exponential function in double, for rejection. As in exp.h, it uses neither libm nor fused
// multiply-add. So every implementation computes the same bits.
#pragma once

#include <cstdint>

#include "core/bits.h"

namespace sbrt {

// Returns e^x for x <= 0, and 0 below -700. The relative error is below 1e-15. The rational
// function is that of exp in the Cephes library.
SBRT_ANY inline double exp64(double x) {
  const double magic = 0x1.8p52;  // a double becomes an integer when this number is added
  const double clamped = x < -700.0 ? -700.0 : x;
  const double n = (clamped * 1.4426950408889634 + magic) - magic;
  double r = clamped - n * 6.93145751953125e-1;
  r = r - n * 1.42860682030941723212e-6;
  const double z = r * r;
  double p = 1.26177193074810590878e-4;
  p = p * z + 3.02994407707441961300e-2;
  p = p * z + 9.99999999999999999910e-1;
  p = p * r;
  double q = 3.00198505138664455042e-6;
  q = q * z + 2.52448340349684104192e-3;
  q = q * z + 2.27265548208155028766e-1;
  q = q * z + 2.0;
  const double e = 1.0 + 2.0 * (p / (q - p));
  const auto power = static_cast<uint64_t>(static_cast<int64_t>(n) + 1023);
  const double scale = __builtin_bit_cast(double, power << 52);
  return x < -700.0 ? 0.0 : e * scale;
}

}  // namespace sbrt
