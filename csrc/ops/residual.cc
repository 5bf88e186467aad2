#include "ops/residual.h"

namespace sbrt {

void add_normed(const ResidualArgs& a, Worker worker) {
  const Interval mine = worker.share(a.rows->n);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    float *given = a.given + i * a.n, *x = a.x + i * a.n;
    a.kernels->norm(given, a.weight, a.eps, a.n, given);
    for (int64_t j = 0; j < a.n; ++j) x[j] += given[j];
  }
}

}  // namespace sbrt
