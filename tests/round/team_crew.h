// A team of 32 members, like a warp of a device. Between two barriers the members run in random
// order.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>

namespace sbrt {

// A team whose members run one after the other. Each member runs from one barrier to the next.
class Crew {
 public:
  static constexpr int kSize = 32;

  struct Member {
    Crew* crew;
    int rank;
    static constexpr int size = kSize;

    void meet() const { crew->pause(rank); }
    uint64_t best(uint64_t key) const {
      uint64_t* keys = crew->keys_[crew->asked_[rank]++ % 2];
      keys[rank] = key;
      crew->pause(rank);
      return *std::max_element(keys, keys + size);
    }
  };

  explicit Crew(uint64_t seed) : random_(seed) {}

  void run(const std::function<void(Member)>& job) {
    job_ = &job;
    for (int rank = 0; rank < kSize; ++rank) start(rank);
    int order[kSize];
    for (int i = 0; i < kSize; ++i) order[i] = i;
    for (int left = kSize; left > 0;) {
      std::shuffle(order, order + kSize, random_);
      left = 0;
      for (const int rank : order) {
        if (done_[rank]) continue;
        swapcontext(&main_, &context_[rank]);
        left += !done_[rank];
      }
    }
  }

 private:
  static constexpr size_t kStack = 1 << 16;

  void start(int rank) {
    done_[rank] = false;
    asked_[rank] = 0;
    getcontext(&context_[rank]);
    context_[rank].uc_stack.ss_sp = stack_[rank].get();
    context_[rank].uc_stack.ss_size = kStack;
    context_[rank].uc_link = &main_;
    const auto self = reinterpret_cast<uintptr_t>(this);
    makecontext(&context_[rank], reinterpret_cast<void (*)()>(&Crew::enter), 3,
                static_cast<unsigned>(self >> 32), static_cast<unsigned>(self), rank);
  }
  static void enter(unsigned high, unsigned low, int rank) {
    Crew& crew = *reinterpret_cast<Crew*>(uintptr_t{high} << 32 | low);
    (*crew.job_)({&crew, rank});
    crew.done_[rank] = true;
  }
  void pause(int rank) { swapcontext(&context_[rank], &main_); }

  std::mt19937_64 random_;
  const std::function<void(Member)>* job_ = nullptr;
  ucontext_t main_, context_[kSize];
  std::unique_ptr<char[]> stack_[kSize] = {};
  bool done_[kSize];
  int asked_[kSize];
  uint64_t keys_[2][kSize];

 public:
  void make_stacks() {
    for (auto& stack : stack_) stack = std::make_unique<char[]>(kStack);
  }
};

}  // namespace sbrt
