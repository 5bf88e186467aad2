// Waiting on an atomic: a short spin first, because rounds are shorter than a wake-up, then a wait
// in the kernel.
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
constexpr int kYields = 1000;  // some hundred more if no other thread wants the core

// Stores and wakes. The store is sequentially consistent, because notify looks for waiters with a
// plain load. If that load passed the store, a waiter that has just read the old value would sleep
// for ever.
template <class T>
void publish(std::atomic<T>& a, T value) {
  a.store(value, std::memory_order_seq_cst);
  a.notify_all();
}

// Returns once done(value) is true of the value just loaded (acquire). `yields`: how often to yield
// the core before sleeping. This pays if the thread that will store is known to be working.
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
