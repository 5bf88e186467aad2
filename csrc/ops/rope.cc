#include "ops/rope.h"

#include <algorithm>

namespace sbrt {
namespace {

// out[0], out[step], ...; out may be x.
void rotate(const float* x, const float* cosines, const float* sines, int64_t half, float* out,
            int64_t step = 1) {
  for (int64_t j = 0; j < half; ++j) {
    const float a = x[j], b = x[half + j];
    out[j * step] = a * cosines[j] - b * sines[j];
    out[(half + j) * step] = b * cosines[j] + a * sines[j];
  }
}

void norm_heads(const HeadNorm& norm, const float* weight, int heads, int64_t d, float* x) {
  if (!weight) return;
  for (int h = 0; h < heads; ++h) norm.kernels->norm(x + h * d, weight, norm.eps, d, x + h * d);
}

}  // namespace

void rope(const RopeArgs& a, Worker worker) {
  const RingShape& shape = a.ring->shape();
  const int64_t d = shape.head_dim, half = d / 2;
  const int64_t stride = (a.heads + 2 * shape.kv_heads) * d;
  const Interval mine = worker.share(a.rows->n);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const Row& row = a.rows->row[i];
    const float *cosines = a.cosines + i * half, *sines = a.sines + i * half;
    float *q = a.qkv + i * stride, *k = q + a.heads * d;
    norm_heads(a.norm, a.norm.q, a.heads, d, q);
    for (int h = 0; h < a.heads; ++h) rotate(q + h * d, cosines, sines, half, q + h * d);
    if (row.slot < 0) continue;
    norm_heads(a.norm, a.norm.k, shape.kv_heads, d, k);
    const float* v = k + shape.kv_heads * d;
    for (int h = 0; h < shape.kv_heads; ++h) {
      rotate(k + h * d, cosines, sines, half, a.ring->k(a.layer, h, row.slot), kKeyPanel);
      std::copy_n(v + h * d, d, a.ring->v(a.layer, h, row.slot));
    }
    if (a.layer == 0) a.ring->tag(row.slot, row.position);
  }
}

}  // namespace sbrt
