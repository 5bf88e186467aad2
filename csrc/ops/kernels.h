// The inner loops. They are compiled once per instruction set, and one set of them is picked at run
// time.
//
// All are compiled from one source, kernels_simd.inc, over a vector of 16 f32 lanes (simd_*.h).
// Neither the packing of weights nor the order of additions depends on the number of rows, threads
// or neighbours. AVX2, AVX-512 and NEON give the same bits. The portable kernels round an fma
// twice, so only their passes over logits give the same bits as the others. Kernels do not check
// their arguments; callers do.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "ops/format.h"

namespace sbrt {

constexpr int kPanel = 16;  // number of outputs of one packed panel

struct RowGroup;  // ops/integers.h

// y[r][o] = sum over k of x[r][k] w[o][k], (+ bias[o]), (+ add[r][o]), for the outputs o of panels
// first .. last - 1. If gated, even panels are gates, and odd panels are the values that they gate
// (up). Then `gate` computes y[r][j] from gate j and up j.
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
  int64_t first, last;  // panels; both numbers are even if gated
  float* both;          // if gated: scratch memory [rows][kGatedWidth], else null
  // Either Kernels::silu_gate or Kernels::gelu_gate.
  void (*gate)(const float* gate, const float* up, int64_t n, float* y);

  // For integer products (ops/integers.h). `groups` has the rows, [groups of k][stride], and
  // replaces x. If the task is gated and `made` is given, the result is stored in `made` as
  // integers, not in y. Then `first` is a multiple of 4.
  const RowGroup* groups;
  int64_t stride;  // distance between successive groups of `groups` and of `made`
  RowGroup* made;
};

constexpr int kGatedWidth = 8 * kPanel;  // largest number of outputs that are gated together

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
// Number of floats after the keys' scores that `attend` may overwrite.
constexpr int kScorePad = 32;

// Attention of query heads that share one KV head. The first `shared` keys are in the same slots
// for all of these heads.
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

// Adding this number to a double from 0 to 1 rounds the double to units of 2^-40. The units are
// then the last bits of the sum.
constexpr double kToUnits = 0x1p12;

// The key of one row's noise (ops/philox.h), and the temperature by which the logits are divided.
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
  // *sum = the sum of e, *moment = the sum of e (x - most), where e = exp32(x - most). Each total
  // consists of 16 partial sums, by i mod 16. These are then added in halves.
  void (*dist)(const float* x, int64_t n, float most, float* sum, float* moment);
  // Returns a mask over up to 64 of n columns, from column `from` on, which is a multiple of 64.
  // Bit j is set if x[from + j] / temperature plus the noise of its token may reach bar. If the sum
  // does reach bar, the bit is always set. The token is ids[from + j], or from + j if ids is null.
  uint64_t (*may_reach)(const float* x, const int32_t* ids, int64_t from, int64_t n,
                        const NoiseBlock& noise, double bar);
  // Writes the indices i with x[i] >= bar to `ids`, in ascending order, and returns their number.
  // `ids` has room for n.
  int64_t (*gather)(const float* x, int64_t n, float bar, int32_t* ids);
  // Sets out[16 p + j] to the greatest value of column j in part p. x has `parts` parts, each of
  // [length][16] floats.
  void (*maxima)(const float* x, int64_t parts, int64_t length, float* out);
  // Sets out[i] = exp32((x[i] - most) / temperature). `out` may be x, or null. Returns the sum of
  // all out[i] in units of 2^-40, each rounded to the nearest unit, ties to even. The units are
  // integers, so the order of additions does not matter.
  int64_t (*weigh)(const float* x, int64_t n, float most, float temperature, float* out);
  // For benches: the peak rates of the machine. read() returns the sum of n floats, as fast as they
  // can be read. peak() runs `steps` fma in each of several independent sums in registers. It
  // returns the number of floating-point operations.
  float (*read)(const float* x, int64_t n);
  double (*peak)(int64_t steps, float* out);
};

// Returns the sets of kernels that this machine can run, the best set first.
std::vector<const Kernels*> kernels_here();
// Returns a set of kernels by name: "avx512", "avx2", "neon", "portable", or "auto" for the best
// set. Throws InvalidInput for other names.
const Kernels& kernels_named(std::string_view name);

}  // namespace sbrt
