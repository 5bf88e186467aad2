// Waits for an atomic: by a short spin first, because a round is shorter than a wake-up, and then
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

constexpr int kSpins = 400;    // about ten microseconds
constexpr int kYields = 1000;  // about a hundred microseconds if no other thread wants the core

// Stores a value and wakes the waiters. The store is sequentially consistent, because notify_all()
// looks for waiters with a plain load. If that load ran before the store, a waiter that has just
// read the old value would sleep for ever.
template <class T>
void publish(std::atomic<T>& a, T value) {
  a.store(value, std::memory_order_seq_cst);
  a.notify_all();
}

// Waits until done(value) is true for the loaded value (acquire), and returns that value. yields:
// how often to yield the core before sleeping. Yielding pays if the thread that will store is known
// to be working.
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
