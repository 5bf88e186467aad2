#include "ops/rope.h"

#include <algorithm>
#include <numeric>

namespace sbrt {
namespace {

// Rotates the pairs (x[j], x[half + j]) by their angles. Writes element j of the result to out[j *
// step]. `out` may be x.
void rotate(const float* x, const float* cosines, const float* sines, int64_t half, float* out,
            int64_t step = 1) {
  for (int64_t j = 0; j < half; ++j) {
    const float a = x[j], b = x[half + j];
    out[j * step] = a * cosines[j] - b * sines[j];
    out[(half + j) * step] = b * cosines[j] + a * sines[j];
  }
}

void copy_to_ring(const float* v, const RopeArgs& a, int head, const Row& row) {
  std::copy_n(v, a.ring->shape().head_dim, a.ring->v(a.layer, head, row.slot));
}

// Finishes head h of row i: applies norm and rope to q or k, and writes k or v to the ring. Heads
// are numbered: first those of q, then those of k, then those of v.
void finish_head(const RopeArgs& a, int64_t i, int h) {
  const RingShape& shape = a.ring->shape();
  const int64_t d = shape.head_dim, half = d / 2;
  const Row& row = a.rows->row[i];
  const float *cosines = a.cosines + i * half, *sines = a.sines + i * half;
  float* x = a.qkv + (i * (a.heads + 2 * shape.kv_heads) + h) * d;
  const int k = h - a.heads;
  if (k >= 0 && row.slot < 0) return;
  if (k >= shape.kv_heads) return copy_to_ring(x, a, k - shape.kv_heads, row);
  const float* weight = k < 0 ? a.norm.q : a.norm.k;
  if (weight) a.norm.kernels->norm(x, weight, a.norm.eps, d, x);
  if (k < 0) {
    rotate(x, cosines, sines, half, x);
  } else {
    rotate(x, cosines, sines, half, a.ring->k(a.layer, k, row.slot), kKeyPanel);
  }
}

}  // namespace

void project(const ProjectArgs& args, Worker worker) {
  const RopeArgs& a = args.rope;
  const int64_t d = a.ring->shape().head_dim;
  const Interval mine = worker.share(args.matmul.weights->out(), std::lcm(d, int64_t{kPanel}));
  matmul_part(args.matmul, worker.rank, mine);
  rope(a, {mine.begin / d, mine.end / d}, worker.rank == 0);
}

void rope(const RopeArgs& a, Interval heads, bool tags) {
  for (int64_t i = 0; i < a.rows->n; ++i) {
    for (int64_t h = heads.begin; h < heads.end; ++h) finish_head(a, i, static_cast<int>(h));
    const Row& row = a.rows->row[i];
    if (tags && a.layer == 0 && row.slot >= 0) a.ring->tag(row.slot, row.position);
  }
}

}  // namespace sbrt
