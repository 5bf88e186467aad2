#include "ops/matmul.h"

#include <algorithm>

namespace sbrt {
namespace {

bool is_integer(const MatmulArgs& a) { return a.integers.kernels && a.weights->quantised(); }

// Returns the rows to multiply. Without a norm they are x. With a norm the team member normalises
// all rows into its own scratch memory.
const float* normed_input(const MatmulArgs& a, int rank) {
  if (!a.norm.weight) return a.x;
  const int64_t n = a.weights->in();
  float* out = a.norm.scratch + rank * a.max_rows * n;
  for (int i = 0; i < a.rows->n; ++i)
    a.kernels->norm(a.x + i * n, a.norm.weight, a.norm.eps, n, out + i * n);
  return out;
}

// Returns the rows as integers. If no earlier op has made them, the team member makes its own copy,
// and normalises the rows first if the op has a norm.
const RowGroup* integer_input(const MatmulArgs& a, int rank) {
  if (a.integers.made) return a.integers.made;
  const int64_t n = a.weights->in(), stride = row_stride(a.rows->n);
  RowGroup* out = a.integers.scratch + rank * row_groups_size(n, a.max_rows);
  float* normed = a.norm.scratch + rank * a.max_rows * n;
  for (int i = 0; i < a.rows->n; ++i) {
    const float* x = a.x + i * n;
    if (a.norm.weight) {
      a.kernels->norm(x, a.norm.weight, a.norm.eps, n, normed);
      x = normed;
    }
    a.integers.kernels->quantise(x, n, stride, out + i);
  }
  return out;
}

// Returns the task that computes the outputs of one stretch: the panels of one storage format
// (PackedMatrix::Stretch).
MatmulTask task_of(const MatmulArgs& a, const PackedMatrix::Stretch& s) {
  const PackedMatrix& w = *a.weights;
  const int64_t first = s.panels.begin * kPanel, end = std::min(s.panels.end * kPanel, w.out());
  MatmulTask task{};
  task.panels = static_cast<const uint8_t*>(w.panels()) + s.offset;
  task.format = s.format;
  task.in = w.in();
  task.out = end - first;
  task.y = a.y + first;
  task.y_stride = w.gated() ? w.gates() : w.out();
  task.bias = a.bias ? a.bias + first : nullptr;
  task.add = a.add ? a.add + first : nullptr;
  task.rows = a.rows->n;
  return task;
}

}  // namespace

void matmul_part(const MatmulArgs& a, int rank, Interval mine) {
  const PackedMatrix& w = *a.weights;
  if (a.rows->n == 0 || mine.empty()) return;
  const bool integer = is_integer(a);
  const float* x = integer ? nullptr : normed_input(a, rank);
  const RowGroup* groups = integer ? integer_input(a, rank) : nullptr;
  const Interval panels{mine.begin / kPanel, (mine.end + kPanel - 1) / kPanel};
  for (const PackedMatrix::Stretch& s : w.stretches()) {
    MatmulTask task = task_of(a, s);
    task.x = x;
    task.groups = groups;
    task.stride = row_stride(a.rows->n);
    task.first = std::max(panels.begin, s.panels.begin) - s.panels.begin;
    task.last = std::min(panels.end, s.panels.end) - s.panels.begin;
    if (task.first >= task.last) continue;
    task.both = w.gated() ? a.both + rank * a.max_rows * kGatedWidth : nullptr;
    task.made = a.integers.make;
    task.gate = a.gate == Gate::gelu ? a.kernels->gelu_gate : a.kernels->silu_gate;
    (integer ? a.integers.kernels->matmul : a.kernels->matmul)(task);
  }
}

void matmul(const MatmulArgs& a, Worker worker) {
  // A team member computes whole gates (two panels), and whole groups of 32 integers (four panels).
  const int64_t panels = !a.weights->gated() ? 1 : a.integers.make ? 4 : 2;
  matmul_part(a, worker.rank, worker.share(a.weights->out(), panels * kPanel));
}

}  // namespace sbrt
