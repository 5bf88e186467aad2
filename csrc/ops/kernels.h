// The inner loops on the CPU. They are compiled once per instruction set, and one set is picked at
// run time.
//
// All sets are compiled from one source, kernels_simd.inc, over a vector of 16 f32 lanes
// (simd_*.h). Neither the packing of weights nor the order of additions depends on the number of
// rows, on threads or on other rows. AVX2, AVX-512 and NEON compute the same bits. The portable
// kernels round an fma twice, so only their passes over logits compute the same bits as the other
// sets. Kernels do not check their arguments; callers do.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "ops/format.h"

namespace sbrt {

constexpr int kPanel = 16;  // number of outputs of one packed panel

struct RowGroup;  // ops/integers.h

// Computes y[r][o] = sum over k of x[r][k] w[o][k], plus bias[o] and add[r][o] if they are given.
// The outputs o are those of panels first .. last - 1. If the matrix is gated, even panels hold
// gates and odd panels hold the values that are gated (up). Then y[r][j] is computed from gate j
// and up j by `gate`.
struct MatmulTask {
  const void* panels;  // layout: ops/packed.h
  Format format;
  int64_t in, out;
  const float* x;     // [rows][in]
  float* y;           // [rows][y_stride]
  int64_t y_stride;   // number of outputs; if gated, number of gates
  const float* bias;  // [out] or null
  const float* add;   // [rows][y_stride] or null; may be y
  int rows;
  int64_t first, last;  // range of panels; both numbers are even if the matrix is gated
  float* both;          // if gated: scratch memory [rows][kGatedWidth], else null
  // Either Kernels::silu_gate or Kernels::gelu_gate.
  void (*gate)(const float* gate, const float* up, int64_t n, float* y);

  // For integer products (ops/integers.h). `groups` has the rows as integers, [groups of
  // inputs][stride], and replaces x. If the matrix is gated and `made` is given, the result is
  // stored in `made` as integers, not in y. Then `first` must be a multiple of 4.
  const RowGroup* groups;
  int64_t stride;  // distance between successive groups of a row, in RowGroups
  RowGroup* made;
};

// Number of columns of MatmulTask::both: the outputs of 8 panels.
constexpr int kGatedWidth = 8 * kPanel;

// A range of consecutive slots of the KV ring.
struct Span {
  int64_t slot, n;
};

// One query head of one row, with the keys that it sees, in order of position.
struct Query {
  const float* q;     // [head_dim]
  float* out;         // [head_dim]
  const Span* spans;  // the same pointer for all query heads of a row
  int64_t keys;       // total number of keys in all spans
};

constexpr int kMostQueries = 12;  // largest number of queries of one task
// `attend` may overwrite this number of floats after the scores of the keys.
constexpr int kScorePad = 32;

// Attention of several query heads that share one KV head. All of these heads see the same first
// `shared` keys.
struct AttendTask {
  const Query* queries;
  int count, head_dim;
  int64_t shared;
  const float* k;        // keys in panels of 16 slots: [slots / 16][head_dim][16]
  const float* v;        // [slots][head_dim]
  float* scratch;        // [attend_scratch(head_dim, score_stride)]
  int64_t score_stride;  // at least the number of keys + kScorePad
  float scale;
};

constexpr int64_t attend_scratch(int64_t head_dim, int64_t score_stride) {
  return kMostQueries * (2 * head_dim + kPanel + score_stride);
}

// If this number is added to a double between 0 and 1, the double is rounded to a multiple of a
// unit, 2^-40. The last bits of the sum are then the number of units.
constexpr double kToUnits = 0x1p12;

// The key of one row's noise (ops/philox.h), and the sampling temperature.
struct NoiseBlock {
  uint64_t seed, where;
  uint32_t completion, use;
  float temperature;
};

struct Kernels {
  const char* name;
  void (*matmul)(const MatmulTask&);
  void (*attend)(const AttendTask&);
  // Computes y = weight * x / sqrt(mean(x^2) + eps). y may be x.
  void (*norm)(const float* x, const float* weight, float eps, int64_t n, float* y);
  // Computes y = silu(gate) * up, where silu(x) = x / (1 + exp(-x)).
  void (*silu_gate)(const float* gate, const float* up, int64_t n, float* y);
  // Computes y = gelu(gate) * up in the tanh form: gelu(x) = x / (1 + exp(-2 sqrt(2 / pi) (x +
  // 0.044715 x^3))).
  void (*gelu_gate)(const float* gate, const float* up, int64_t n, float* y);
  // Returns the greatest of n >= 1 values. Sets *bad to true if any value is NaN or +inf.
  float (*largest)(const float* x, int64_t n, bool* bad);
  // Returns the first i >= from with x[i] >= bar, or n if there is none. No x may be NaN.
  int64_t (*next_reaching)(const float* x, int64_t from, int64_t n, float bar);
  // Sets *sum to the sum of e, and *moment to the sum of e (x - most), where e = exp32(x - most).
  // Each sum is computed as 16 partial sums, by i mod 16, which are then added in halves.
  void (*dist)(const float* x, int64_t n, float most, float* sum, float* moment);
  // Returns a mask over up to 64 of n columns, from column `from` on; `from` is a multiple of 64.
  // The score of column from + j is x[from + j] / temperature plus the noise of its token. Bit j is
  // set for every score of at least `bar`, and may be set for lower scores. The token is ids[from +
  // j], or from + j if ids is null.
  uint64_t (*may_reach)(const float* x, const int32_t* ids, int64_t from, int64_t n,
                        const NoiseBlock& noise, double bar);
  // Writes the indices i with x[i] >= bar to `ids`, in ascending order, and returns their number.
  // `ids` has room for n.
  int64_t (*gather)(const float* x, int64_t n, float bar, int32_t* ids);
  // Sets out[16 p + j] to the greatest value of column j in part p. x is [parts][length][16].
  void (*maxima)(const float* x, int64_t parts, int64_t length, float* out);
  // Sets out[i] = exp32((x[i] - most) / temperature). `out` may be x, or null. Returns the sum of
  // all out[i]. Each addend is rounded to units of 2^-40, ties to even. The sum is a number of
  // units, so the order of additions does not matter.
  int64_t (*weigh)(const float* x, int64_t n, float most, float temperature, float* out);
  // For benches of the machine's peak rates. read() reads n floats as fast as possible and returns
  // their sum. peak() runs `steps` fma in each of several independent sums in registers, and
  // returns the number of floating-point operations.
  float (*read)(const float* x, int64_t n);
  double (*peak)(int64_t steps, float* out);
};

// Returns the sets of kernels that this machine can run, the fastest set first.
std::vector<const Kernels*> kernels_here();
// Returns a set of kernels by name: "avx512", "avx2", "neon", "portable", or "auto" for the fastest
// set. Throws InvalidInput for other names.
const Kernels& kernels_named(std::string_view name);

}  // namespace sbrt
