// Matrix products of quantised weights with quantised rows. Products within a group are summed as
// integers. The sums of groups are then added in f32.
//
// Every instruction set computes the same bits. An integer sum does not depend on the order of
// additions. Each output has its own vector lane, which adds the integer sums of the groups in f32,
// with fma. It adds them in ascending order of inputs.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "ops/kernels.h"

namespace sbrt {

constexpr int kRowGroup = 32;  // number of consecutive values of a row that share a scale

// 32 consecutive values x of a row, stored as x = scale * q. The scale is max|x| / 127, and q is x
// / scale rounded to nearest, halves to even. The scale is 0 if max|x| is below 127 times the least
// normal float. A NaN or infinity makes the scale NaN; then every output of the row is NaN. Beyond
// the end of the row, q = 0.
struct alignas(64) RowGroup {
  int8_t q[kRowGroup];
  float scale;
  float moment;          // scale * the sum of q
  int32_t less_128;      // -128 * the sum of q
  int32_t less_8;        // -8 * the sum of q
  float half_moment[2];  // scale * the sum of q over each half of the group
  int32_t half_less_128[2];
};
static_assert(sizeof(RowGroup) == 64);

constexpr int64_t row_groups(int64_t n) { return (n + kRowGroup - 1) / kRowGroup; }
// Returns the distance between successive groups of a row, in RowGroups. Group g of all rows is
// stored before group g + 1 of any row. The distance is odd, so that a row's groups do not share a
// cache set.
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
  // For benches of the machine's peak rate. Repeats `steps` times: adds dot products of 4 values to
  // each of several independent sums in registers. Returns the number of integer operations, two
  // per product.
  double (*peak)(int64_t steps, int32_t* out);
};

// Returns the sets of integer kernels that this machine can run, the fastest set first.
std::vector<const Integers*> integers_here();
// Returns a set of integer kernels by name: "vnni512", "vnni256", "avx2", "dotprod", "portable", or
// "auto" for the fastest set. Throws InvalidInput for other names.
const Integers& integers_named(std::string_view name);
// Returns the fastest set of integer kernels for use with the float kernels named `kernels`. Its
// vectors are no wider than those of the float kernels.
const Integers& integers_beside(std::string_view kernels);

}  // namespace sbrt
