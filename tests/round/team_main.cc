// Runs the ops of rounds with one thread and with a team, and compares the results. Between two
// barriers the team's members run in a random order.
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>

#include "op_script.h"

namespace sbrt {
namespace {

// A team whose members run in turn, each from one barrier to the next.
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

// Runs rounds of one sequence. Every op runs with one thread and with a team. Returns the number of
// ops, or -1 if the results differ.
int64_t compare(uint64_t seed, int64_t rounds) {
  const auto alone = std::make_unique<OpState>(), team = std::make_unique<OpState>();
  Crew crew(seed);
  crew.make_stacks();
  OpScript script(seed, *alone);
  OpScratch scratch, shared;
  bool same = true;
  int64_t ops = 0;
  const auto run = [&](RoundOp op) {
    *team = *alone;
    team->aim(team.get());
    run_op(op, *alone, scratch, Alone{});
    crew.run([&](Crew::Member member) { run_op(op, *team, shared, member); });
    team->aim(alone.get());
    same = same && is_same(*alone, *team);
    if (!same) std::printf("FAILED: seed %ld, op %d\n", long(seed), int(op));
    ++ops;
  };
  script.prefill(run);
  for (int64_t r = 0; r < rounds && same && script.round(run); ++r) {
  }
  return same ? ops : -1;
}

}  // namespace
}  // namespace sbrt

int main(int argc, char** argv) {
  const int64_t sequences = argc > 1 ? std::atoll(argv[1]) : 100;
  int64_t ops = 0;
  for (int64_t seed = 0; seed < sequences; ++seed) {
    const int64_t done = sbrt::compare(static_cast<uint64_t>(seed), 40);
    if (done < 0) return 1;
    ops += done;
  }
  std::printf("%ld ops\n", long(ops));
  return 0;
}
