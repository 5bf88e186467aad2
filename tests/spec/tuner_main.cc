// Does Tuner::stays() go on saying no until next() was called? Of a trunk that begins to repeat itself
// under plain decoding, where a look-up becomes the better policy.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "spec/tuner.h"

namespace sbrt {
namespace {

constexpr int64_t kTokens = 400, kPrompt = 50, kPeriod = 10;

Policy policy_of(int32_t on_miss) {
  Policy policy{};
  policy.width = policy.burst_width = 1;
  policy.nodes = kMaxChain;
  policy.on_miss = on_miss;
  policy.burst = on_miss == kLookup ? 4 : 0;
  return policy;
}

int run() {
  std::vector<int32_t> trunk(kTokens);
  for (int64_t i = 0; i < kTokens; ++i)
    trunk[i] = static_cast<int32_t>(i < kPrompt ? i : kPrompt + i % kPeriod);
  Costs costs;
  for (int n = 1; n <= kCostRows; ++n) costs.alone.target[n] = 1000;
  Tuner tuner({policy_of(kGoOn), policy_of(kLookup)}, costs, kTokens);
  auto c = std::make_unique<Control>();
  c->trunk = trunk.data();
  c->head = kPrompt - 1;
  tuner.begin(*c);
  tuner.next(*c);
  if (c->policy.on_miss != kGoOn) return std::puts("FAILED: it looks up what never repeats"), 1;
  while (++c->head < kTokens && tuner.stays(*c, c->head)) tuner.saw({1, 1000, 1, true});
  if (c->head == kTokens) return std::puts("FAILED: it never saw that the trunk repeats"), 1;
  for (int i = 0; i < 100; ++i)
    if (tuner.stays(*c, c->head)) return std::puts("FAILED: it stays after all"), 1;
  tuner.next(*c);
  if (c->policy.on_miss != kLookup) return std::puts("FAILED: it did not change"), 1;
  if (!tuner.stays(*c, c->head)) return std::puts("FAILED: it does not stay behind a change"), 1;
  return 0;
}

}  // namespace
}  // namespace sbrt

int main() { return sbrt::run(); }
