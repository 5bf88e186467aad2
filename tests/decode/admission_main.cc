// Admits and drops sequences while other sequences decode. Each sequence must get the tokens that
// it gets alone.
//
//   admission_main TURNS       on the cpu backend, to be run under ThreadSanitizer
//   admission_main TURNS dry   on the dry backend; fails if OrderBook finds a conflict
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "core/check.h"
#include "decode/engine.h"
#include "exec/order.h"
#include "model/toy.h"

namespace {

using namespace sbrt;

constexpr int kCount = 4;  // number of seats

// Returns the policy of plain decoding, which runs no draft.
Policy plain() {
  Policy p{};
  p.width = p.burst_width = 1;
  p.nodes = 20;
  return p;
}

Policy serial(int32_t steps, int32_t width) {
  Policy p = plain();
  p.on_miss = kBurst;
  p.burst = steps;
  p.burst_width = width;
  return p;
}

Policy overlapped(int32_t branches, int32_t width, OnMiss on_miss) {
  Policy p = plain();
  p.gamma = 4;
  p.branches = branches;
  p.ranking = width > 1 ? kLikely : kFirst;
  p.width = width;
  p.on_miss = on_miss;
  p.burst = 3;
  return p;
}

const Policy kPolicies[] = {plain(), overlapped(1, 1, kGoOn), overlapped(8, 2, kLookup),
                            serial(4, 1), serial(3, 4)};
constexpr size_t kAhead = 3;  // the first kAhead policies have no serial bursts

std::unique_ptr<Engine> engine_of(Backend backend, int seats) {
  ToyConfig target{.vocab = 16, .seed = 5}, draft = target;
  draft.noise16 = 4;
  RuntimeConfig config;
  config.max_model_len = 160;
  config.num_threads = backend == Backend::cpu ? 2 : 1;
  config.max_width = 2;
  config.max_num_seqs = seats;
  config.max_piece = 8;
  config.reuses_prefixes = true;
  config.backend = backend;
  config.debug = true;
  return std::make_unique<Engine>(std::make_shared<Toy>(target), std::make_shared<Toy>(draft),
                                  config);
}

// A sequence in its seat, and its tokens so far.
struct Running {
  Request request;
  std::vector<int32_t> tokens;
};

class Crowd {
 public:
  explicit Crowd(Backend backend)
      : engine_(engine_of(backend, kCount)), alone_(engine_of(Backend::sim, 1)) {}

  void turn() {
    while (engine_->has_free_seat() && random_() % 4) admit();
    engine_->run(1, 0);
    ++turns_;
    for (int seat = 0; seat < kCount; ++seat) {
      if (!running_[seat]) continue;
      for (const int32_t token : engine_->take(seat)) running_[seat]->tokens.push_back(token);
      const bool ends = !engine_->sequence(seat).live();
      if (ends) expect_alone(*running_[seat]);
      if (!ends && random_() % 16) continue;
      engine_->release(seat);  // the sequence may still be in prefill
      running_[seat].reset();
      // Rounds and prompt pieces of the released sequence may still be in flight.
      if (random_() % 2) admit();
    }
  }

  int64_t finished() const { return finished_; }
  const OrderBook* order() const { return engine_->order(); }

 private:
  void admit() {
    Request r;
    for (uint64_t i = 0, n = 3 + random_() % 100; i < n; ++i)
      r.prompt.push_back(static_cast<int32_t>(i % 16));
    r.prompt.back() = static_cast<int32_t>(random_() % 16);
    r.sampling = {};
    r.sampling.temperature = random_() % 2 ? 0.8f : 0.0f;
    r.sampling.top_p = 1;
    r.sampling.seed = random_();
    // For 64 of every 128 turns new sequences have no serial bursts. Then the host can enqueue
    // rounds ahead.
    r.policy = kPolicies[random_() % (turns_ / 64 % 2 ? kAhead : std::size(kPolicies))];
    r.max_tokens = static_cast<int64_t>(1 + random_() % 40);
    if (random_() % 4 == 0) r.shaping.presence = 0.5f;
    running_[engine_->admit(r)] = Running{r, {}};
  }

  void expect_alone(const Running& running) {
    alone_->begin(running.request);
    alone_->run(0, 0);
    check(alone_->take(0) == running.tokens, "a sequence has other tokens than alone");
    ++finished_;
  }

  std::mt19937_64 random_{7};
  std::unique_ptr<Engine> engine_, alone_;
  std::optional<Running> running_[kCount];
  int64_t turns_ = 0, finished_ = 0;
};

void run(Backend backend, int64_t turns) {
  Crowd crowd(backend);
  for (int64_t turn = 0; turn < turns; ++turn) crowd.turn();
  std::printf("%ld sequences\n", long(crowd.finished()));
  if (!crowd.order()) return;
  for (const std::string& conflict : crowd.order()->conflicts({}, true))
    throw Error("conflict: " + conflict);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc > 2 ? Backend::dry : Backend::cpu, argc > 1 ? std::atoll(argv[1]) : 1000);
  } catch (const std::exception& e) {
    std::printf("FAILED: %s\n", e.what());
    return 1;
  }
  return 0;
}
