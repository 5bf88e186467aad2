// Waiting on an atomic: a short spin, because rounds are shorter than a wake-up, then the kernel.
#pragma once

#include <atomic>
#include <thread>

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

constexpr int kSpins = 400;    // some ten microseconds
constexpr int kYields = 1000;  // some hundred more where nobody else wants the core

// Stores and wakes. Sequentially consistent: notify looks for waiters with a plain load, which must
// not pass the store, or a waiter that has just seen the old value sleeps for ever.
template <class T>
void publish(std::atomic<T>& a, T value) {
  a.store(value, std::memory_order_seq_cst);
  a.notify_all();
}

// Returns once done(value) is true of the value just loaded (acquire). `yields`: how often to offer
// the core to others before sleeping; worth it where the one waited for is known to be at work.
template <class T, class Done>
T wait_until(const std::atomic<T>& a, Done done, int yields = 0) {
  T value = a.load(std::memory_order_acquire);
  for (int spin = 0; !done(value); ++spin) {
    if (spin < kSpins) {
      cpu_relax();
    } else if (spin < kSpins + yields) {
      std::this_thread::yield();
    } else {
      a.wait(value, std::memory_order_acquire);
    }
    value = a.load(std::memory_order_acquire);
  }
  return value;
}

}  // namespace sbrt
