// The exponential function for softmax. It uses neither libm nor fused multiply-add. So any code
// that takes these steps, vector or scalar, computes the same bits.
#pragma once

#include <cstdint>

#include "core/bits.h"

namespace sbrt {

// Returns e^x for x <= 0, and 0 below -87. The relative error is below 2e-7. The polynomial is that
// of expf in the Cephes library.
SBRT_ANY inline float exp32(float x) {
  // 1.5 x 2^23; a float becomes an integer when this number is added.
  const float magic = 12582912.0f;
  const float clamped = x < -87.0f ? -87.0f : x;
  const float n = (clamped * 1.44269504f + magic) - magic;
  float r = clamped - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float e = p * (r * r) + r + 1.0f;
  const float scale = __builtin_bit_cast(float, (static_cast<int32_t>(n) + 127) << 23);
  return x < -87.0f ? 0.0f : e * scale;
}

}  // namespace sbrt
