#include "ops/norm.h"

namespace sbrt {

void norm(const NormArgs& a, Worker worker) {
  const Interval mine = worker.share(a.rows->n);
  for (int64_t i = mine.begin; i < mine.end; ++i)
    a.kernels->norm(a.x + i * a.n, a.weight, a.eps, a.n, a.y + i * a.n);
}

void gate(const GateArgs& a, Worker worker) {
  constexpr int64_t kGrain = 64;  // columns a member takes at once
  const int64_t pieces = (a.n + kGrain - 1) / kGrain;
  const Interval mine = worker.share(a.rows->n * pieces);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const int64_t row = i / pieces, from = i % pieces * kGrain;
    const float* x = a.x + row * 2 * a.n + from;
    const int64_t n = a.n - from < kGrain ? a.n - from : kGrain;
    a.kernels->gate(x, x + a.n, n, a.y + row * a.n + from);
  }
}

}  // namespace sbrt
