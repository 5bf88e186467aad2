// Matrix products of quantised weights with quantised rows. Products are summed as integers. Then
// these sums are added in f32, in one fixed order.
//
// Every instruction set computes the same bits. An integer sum is the same in any order. Each
// output has one vector lane. The lane adds the integer sums of the groups in f32, in ascending
// order of k, with fma.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "ops/kernels.h"

namespace sbrt {

constexpr int kRowGroup = 32;  // number of consecutive values of a row that share a scale

// 32 consecutive values of a row: x = scale * q, where scale = max|x| / 127 and q = x / scale
// rounded to nearest, halves to even. The scale is 0 if max|x| is below 127 times the least normal
// float. NaN or infinity makes the scale NaN, and with it every output of the row. Beyond the end
// of the row, q = 0.
struct alignas(64) RowGroup {
  int8_t q[kRowGroup];
  float scale;
  float moment;          // scale * the sum of q
  int32_t less_128;      // -128 * the sum of q
  int32_t less_8;        // -8 * the sum of q
  float half_moment[2];  // scale * the sum of q, for either half of the group
  int32_t half_less_128[2];
};
static_assert(sizeof(RowGroup) == 64);

constexpr int64_t row_groups(int64_t n) { return (n + kRowGroup - 1) / kRowGroup; }
// Returns the distance between the groups of successive k. For each k, the groups of all rows are
// adjacent. The stride is odd, so that a row's groups do not share a cache set.
constexpr int64_t row_stride(int64_t rows) { return rows | 1; }
constexpr int64_t row_groups_size(int64_t n, int64_t rows) {
  return row_groups(n) * row_stride(rows);
}

struct Integers {
  const char* name;
  // Quantises a row x [n] into the groups out[0], out[stride], ...
  void (*quantise)(const float* x, int64_t n, int64_t stride, RowGroup* out);
  // Does what Kernels::matmul does, with rows from task.groups and weights of a quantised format.
  void (*matmul)(const MatmulTask& task);
  // Measures the peak rate of the machine. Each of `steps` times, it adds dot products of 4 values
  // to each of several independent sums in registers. Returns the number of integer operations, two
  // per product.
  double (*peak)(int64_t steps, int32_t* out);
};

// Returns the sets of kernels that this machine can run, the best set first.
std::vector<const Integers*> integers_here();
// Returns a set of kernels by name: "vnni512", "vnni256", "avx2", "dotprod", "portable", or "auto"
// for the best set. Throws InvalidInput for other names.
const Integers& integers_named(std::string_view name);
// Returns the best set for use with the float kernels named `kernels`. The vectors of the set are
// no wider than those of the float kernels.
const Integers& integers_beside(std::string_view kernels);

}  // namespace sbrt
