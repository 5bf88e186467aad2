// Addresses of the inputs of H-RAD (features), and a function that reads them for a row and a
// token. The code runs on every device.
#pragma once

#include "core/dtype.h"

namespace sbrt {

constexpr int kFeatureLayers = 4;  // features are taken from the last 4 layers
constexpr int kFeatureBlocks = kFeatureLayers + 1;

struct FeatureMemory {
  // [max_rows, kFeatureLayers, hidden]; null: the lane keeps no features.
  const void* features = nullptr;
  const void* embed = nullptr;  // [vocab, hidden]
  int64_t hidden = 0;
  DType dtype = DType::f32;  // type of `features` and `embed`

  // Returns element `i` of the features. The features are the blocks of `row`, then the embedding
  // of `token`.
  SBRT_ANY float at(int row, int32_t token, int64_t i) const {
    const int64_t kept = kFeatureLayers * hidden;
    return i < kept ? element(features, row * kept + i)
                    : element(embed, token * hidden + (i - kept));
  }

 private:
  SBRT_ANY float element(const void* data, int64_t i) const {
    if (dtype == DType::f32) return static_cast<const float*>(data)[i];
    const uint16_t bits = static_cast<const uint16_t*>(data)[i];
    return dtype == DType::bf16 ? from_bf16(bits) : from_f16(bits);
  }
};

}  // namespace sbrt
