// Small replacements for <algorithm>, and a check macro, for code that runs on every device.
#pragma once

#include <cstdint>

#include "core/bits.h"
#include "core/check.h"

// SBRT_CHECK_ANY checks a condition in code that runs on every device. On the host it throws an
// Error with a message. A kernel cannot throw, so it traps. Every later CUDA call in the process's
// context then reports the error.
#if defined(__CUDA_ARCH__)
#define SBRT_CHECK_ANY(ok, ...) \
  do {                          \
    if (!(ok)) __trap();        \
  } while (false)
#else
#define SBRT_CHECK_ANY(ok, ...) ::sbrt::check(ok, __VA_ARGS__)
#endif

namespace sbrt {

template <class T>
SBRT_ANY constexpr T least(T a, T b) {
  return b < a ? b : a;
}

template <class T>
SBRT_ANY constexpr T most(T a, T b) {
  return a < b ? b : a;
}

template <class T>
SBRT_ANY constexpr T within(T x, T low, T high) {
  return x < low ? low : high < x ? high : x;
}

// Returns the index of the first of n items that equals `item`, or n if none does.
template <class T>
SBRT_ANY constexpr int first_of(const T* items, int n, T item) {
  int i = 0;
  while (i < n && items[i] != item) ++i;
  return i;
}

}  // namespace sbrt
