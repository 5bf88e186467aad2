// Runs rounds of every method on the cpu backend, to be run under ThreadSanitizer.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "core/check.h"
#include "model/toy.h"
#include "decode/engine.h"

namespace {

using namespace sbrt;

constexpr int64_t kTokens = 60;

struct Threads {
  int total, draft;
};

Request request(uint64_t seed, const Policy& policy) {
  Request r;
  for (uint64_t i = 0; i < 3 + seed % 80; ++i) r.prompt.push_back(static_cast<int32_t>(i % 16));
  r.sampling = {};
  r.sampling.temperature = seed % 3 ? 0.8f : 0.0f;
  r.sampling.top_p = 1;
  r.sampling.seed = seed;
  r.policy = policy;
  r.max_tokens = kTokens;
  if (seed % 2) r.shaping.presence = 0.5f;
  return r;
}

std::vector<int32_t> tokens(Engine& engine, uint64_t seed, const Policy& policy) {
  engine.begin(request(seed, policy));
  engine.run(0, 0);
  return engine.take(0);
}

Policy serial(int32_t steps, int32_t width) {
  return {.width = 1, .nodes = 20, .on_miss = kBurst, .burst = steps, .burst_width = width};
}

Policy overlapped(Ranking ranking, int32_t branches, OnMiss on_miss) {
  const bool wide = ranking == kLikely;
  return {.gamma = 4,
          .branches = branches,
          .ranking = ranking,
          .width = wide ? 2 : 1,
          .nodes = 20,
          .epsilon = ranking == kAdaptive ? 0.2f : 0.0f,
          .on_miss = on_miss,
          .burst = 3,
          .burst_width = wide ? 6 : 1};
}

Policy looking_up(Policy policy) {
  policy.lookup = 1;
  return policy;
}

// In order: draft_model; tree; lookup; pearl; specbranch with two values of on_miss; hedge with
// three values of on_miss; three policies with look-ups.
const Policy kPolicies[] = {
    serial(4, 1),
    serial(3, 4),
    {.width = 1, .nodes = kMaxChain, .on_miss = kLookup, .burst = 5, .burst_width = 1},
    overlapped(kFirst, 1, kGoOn),
    overlapped(kAdaptive, 8, kGoOn),
    overlapped(kAdaptive, 8, kBurst),
    overlapped(kLikely, 16, kGoOn),
    overlapped(kLikely, 16, kBurst),
    overlapped(kLikely, 16, kLookup),
    looking_up(serial(3, 4)),
    looking_up(overlapped(kAdaptive, 8, kGoOn)),
    looking_up(overlapped(kLikely, 16, kBurst))};

int64_t rounds(Threads threads, int64_t enough) {
  ToyConfig target{.vocab = 16, .seed = 5}, draft = target;
  draft.noise16 = 4;
  RuntimeConfig config;
  config.max_model_len = 160;
  config.num_threads = threads.total;
  config.draft_threads = threads.draft;
  config.max_width = 2;
  config.max_branches = 16;
  config.debug = true;
  config.rejection = true;
  const auto models = std::pair(std::make_shared<Toy>(target), std::make_shared<Toy>(draft));
  Engine engine(models.first, models.second, config);
  config.backend = Backend::sim;  // runs the same rounds on one thread
  Engine calm(models.first, models.second, config);
  config.backend = Backend::cpu;
  config.rejection = false;
  config.draft_device = 1;  // each lane has its own memory
  Engine apart(models.first, models.second, config);
  int64_t done = 0;
  for (uint64_t seed = 0; done < enough; ++seed) {
    const std::vector<int32_t> plain =
        tokens(engine, seed, {.width = 1, .nodes = kMaxChain, .burst_width = 1});
    for (const Policy& policy : kPolicies) {
      check(tokens(engine, seed, policy) == plain, "seed ", seed, " gave other tokens");
      done += engine.sequence(0).stats().rounds;
      check(tokens(apart, seed, policy) == plain, "seed ", seed,
            " gave other tokens with two memories");
      done += apart.sequence(0).stats().rounds;
      Policy by_chance = policy;
      by_chance.rejection = 1;
      check(tokens(engine, seed, by_chance) == tokens(calm, seed, by_chance), "seed ", seed,
            " gave other tokens under rejection");
      done += engine.sequence(0).stats().rounds;
    }
  }
  return done;
}

// Values that one lane writes and the other reads.
struct Shared {
  int64_t outcome = 1, chain = 1, branches = 1, choice = 1;
};

// The arguments of the op `fold`, which sets *to to a hash of *to and *from.
struct Fold {
  int64_t* to;
  const int64_t* from;
};

void fold(const Fold& a, Worker) {
  *a.to = static_cast<int64_t>(mix64(static_cast<uint64_t>(*a.to), static_cast<uint64_t>(*a.from)));
}

RoundShape shape_of(int64_t round) {
  // (draft steps before the target's forward, draft steps during it) of four kinds of rounds:
  // overlapped, serial, both, neither.
  constexpr int kShapes[][2] = {{0, 2}, {2, 0}, {2, 2}, {0, 0}};
  const auto& [burst, gamma] = kShapes[mix64(1, static_cast<uint64_t>(round)) % 4];
  return {burst, gamma, 1, 1, 1};
}

// Runs rounds of ops that do nothing but access memory. They make the accesses that the table in
// csrc/README.md, "Who writes what", lists.
Shared rounds_ahead(const std::unique_ptr<Exec>& exec, int64_t count) {
  Shared s;
  int64_t target_kv = 1, draft_kv = 1;
  Graph settle_target("settle"), forward("forward"), select("select");
  settle_target.add(fold, Fold{&target_kv, &s.outcome});
  forward.add(fold, Fold{&s.choice, &s.chain});
  select.add(fold, Fold{&s.outcome, &s.choice});
  select.add(fold, Fold{&s.chain, &s.branches});
  Graph settle_draft("settle"), certain("plan_certain"), attach("attach_burst"),
      catch_up("catch_up"), plan("plan"), step("step");
  settle_draft.add(fold, Fold{&draft_kv, &s.outcome});
  settle_draft.add(fold, Fold{&draft_kv, &s.chain});
  certain.add(fold, Fold{&s.branches, &s.chain});
  attach.add(fold, Fold{&s.chain, &s.branches});
  catch_up.add(fold, Fold{&draft_kv, &s.chain});
  plan.add(fold, Fold{&s.branches, &s.chain});
  step.add(fold, Fold{&s.branches, &draft_kv});
  const auto one = exec->stream(1), two = exec->stream(1);
  TargetLane target{*one, settle_target, forward, select};
  DraftLane draft{*two, settle_draft, certain, attach, catch_up, plan, step};
  Fences fences;
  for (int64_t r = 1; r <= count; ++r) enqueue_round(r, shape_of(r), target, &draft, fences);
  exec->wait(fences.verify_done, count);
  return s;
}

int ahead(int64_t count) {
  const Shared got = rounds_ahead(make_cpu_exec(), count),
               want = rounds_ahead(make_sim_exec(), count);
  if (got.outcome == want.outcome && got.chain == want.chain) return 0;
  std::printf("FAILED: the rounds gave other tokens than on one thread\n");
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t enough = argc > 1 ? std::atoll(argv[1]) : 1000;
  if (argc > 2) return ahead(enough);
  int64_t done = 0;
  try {
    for (const Threads threads : {Threads{1, 1}, Threads{2, 1}, Threads{4, 2}})
      done += rounds(threads, enough / 3);
  } catch (const std::exception& e) {
    std::printf("FAILED: %s\n", e.what());
    return 1;
  }
  std::printf("%ld rounds\n", done);
  return 0;
}
