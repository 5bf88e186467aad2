// Waiting on an atomic: a short spin, because rounds are shorter than a wake-up, then the kernel.
#pragma once

#include <atomic>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sbrt {

inline void cpu_relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr int kSpins = 400;  // some ten microseconds

// Stores and wakes. Sequentially consistent: notify looks for waiters with a plain load, which must
// not pass the store, or a waiter that has just seen the old value sleeps for ever.
template <class T>
void publish(std::atomic<T>& a, T value) {
  a.store(value, std::memory_order_seq_cst);
  a.notify_all();
}

// Returns once done(value) is true of the value just loaded (acquire).
template <class T, class Done>
T wait_until(const std::atomic<T>& a, Done done) {
  T value = a.load(std::memory_order_acquire);
  for (int spin = 0; !done(value); ++spin) {
    if (spin < kSpins) {
      cpu_relax();
    } else {
      a.wait(value, std::memory_order_acquire);
    }
    value = a.load(std::memory_order_acquire);
  }
  return value;
}

}  // namespace sbrt
