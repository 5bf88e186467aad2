// The inner loops, compiled once per instruction set and picked once at run time.
//
// The body is one text, kernels_body.inc, over a vector of 16 f32 lanes (simd_*.h). Packed weights
// and results' order of additions do not depend on the number of rows, threads or neighbours; they
// may differ between instruction sets. Nothing here checks: callers do.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace sbrt {

constexpr int kPanel = 16;  // outputs of one packed panel

// y[r][o] = sum over k of x[r][k] w[o][k], (+ bias[o]), (+ add[r][o]), for outputs of panels
// first .. last - 1.
struct MatmulTask {
  const void* panels;  // layout: ops/matmul.h
  bool bf16;
  int64_t in, out;
  const float* x;     // [rows][in]
  float* y;           // [rows][out]
  const float* bias;  // [out] or null
  const float* add;   // [rows][out] or null; may be y
  int rows;
  int64_t first, last;
};

// Consecutive storage slots.
struct Span {
  int64_t slot, n;
};

// One row and one KV head: `group` query heads over the keys of `spans`, in their order.
struct AttendTask {
  const float* q;        // [group][head_dim]
  const float* k;        // [slots][head_dim]
  const float* v;        // [slots][head_dim]
  float* out;            // [group][head_dim]
  float* scores;         // [group][score_stride], scratch
  int64_t score_stride;  // at least the keys + kScorePad
  const Span* spans;
  int span_count, group, head_dim;
  float scale;
};

constexpr int kScorePad = 16;  // floats beyond the last key that `attend` may write

struct Kernels {
  const char* name;
  void (*matmul)(const MatmulTask&);
  void (*attend)(const AttendTask&);
  // y = weight * x / sqrt(mean(x^2) + eps); y may be x
  void (*norm)(const float* x, const float* weight, float eps, int64_t n, float* y);
  // y = silu(gate) * up
  void (*gate)(const float* gate, const float* up, int64_t n, float* y);
  // The roofs of a bench: the sum of n floats, which is as fast as they can be read; and `steps` fma
  // of many independent chains in registers, which returns the floating-point operations done.
  float (*read)(const float* x, int64_t n);
  double (*peak)(int64_t steps, float* out);
};

// Those this machine can run, best first.
std::vector<const Kernels*> kernels_here();
// By name: "avx512", "avx2", "portable", or "auto" for the best. Throws InvalidInput.
const Kernels& kernels_named(std::string_view name);

}  // namespace sbrt
