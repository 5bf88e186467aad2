// Rounds of every method on the cpu body, to be run under ThreadSanitizer: `race_main ROUNDS`.
// Ends 1 if a method's tokens are not those of plain decoding.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "core/check.h"
#include "model/toy.h"
#include "spec/runtime.h"

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

std::vector<int32_t> tokens(Runtime& runtime, uint64_t seed, const Policy& policy) {
  runtime.begin(request(seed, policy));
  return runtime.run(0, 0);
}

int64_t rounds(Threads threads, int64_t enough) {
  ToyConfig target{.vocab = 16, .seed = 5}, draft = target;
  draft.noise16 = 4;
  RuntimeConfig config;
  config.max_model_len = 160;
  config.num_threads = threads.total;
  config.draft_threads = threads.draft;
  config.debug = true;
  Runtime runtime(std::make_shared<Toy>(target), std::make_shared<Toy>(draft), config);
  const Policy policies[] = {{4, 1, 0, 0, 1}, {4, 1, 0, 0, 0}, {3, 8, 1, 0.2f, 0}};
  int64_t done = 0;
  for (uint64_t seed = 0; done < enough; ++seed) {
    const std::vector<int32_t> plain = tokens(runtime, seed, {});
    for (const Policy& policy : policies) {
      check(tokens(runtime, seed, policy) == plain, "seed ", seed, " gave other tokens");
      done += runtime.stats().rounds;
    }
  }
  return done;
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t enough = argc > 1 ? std::atoll(argv[1]) : 1000;
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
