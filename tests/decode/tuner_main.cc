// Tests of the tuner of `auto`:
// - Once Tuner::stays() has returned false, it returns false until next() is called. In this test
//   the trunk begins to repeat itself under plain decoding, and look-up becomes the better policy.
// - A trial is charged the right loss, even if a round is in flight when the trial starts or ends.
// - A token that is not a candidate of the draft gets a rank that no candidate has.
// - A round whose chain is only a look-up costs no burst. In company it does, since others need one.
// - In company a burst is only as long as pays on average. A sequence alone keeps its policy's burst.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "round/chain.h"
#include "decode/auto/tuner.h"

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

int failed(const char* what) { return std::printf("FAILED: %s\n", what), 1; }

int leaves_for_good() {
  std::vector<int32_t> trunk(kTokens);
  for (int64_t i = 0; i < kTokens; ++i)
    trunk[i] = static_cast<int32_t>(i < kPrompt ? i : kPrompt + i % kPeriod);
  Costs costs;
  for (int n = 1; n <= kCostRows; ++n) costs.alone.target[n] = 1000;
  Tuner tuner({policy_of(kGoOn), policy_of(kLookup)}, costs, kTokens);
  auto c = std::make_unique<Sequence>();
  c->trunk = trunk.data();
  c->head = kPrompt - 1;
  tuner.begin(*c);
  tuner.next(*c);
  if (c->policy.on_miss != kGoOn) return failed("it looks up what never repeats");
  while (++c->head < kTokens && tuner.stays(*c, c->head)) tuner.saw({1, 1000, 1, true});
  if (c->head == kTokens) return failed("it never saw that the trunk repeats");
  for (int i = 0; i < 100; ++i)
    if (tuner.stays(*c, c->head)) return failed("it stays after all");
  tuner.next(*c);
  if (c->policy.on_miss != kLookup) return failed("it did not change");
  if (!tuner.stays(*c, c->head)) return failed("it does not stay behind a change");
  return 0;
}

// Returns the time in ns that trials may still cost, rounded to kStep. Tuner::wants_to_look() is
// true only if the draft's catch-up costs less than this time. So the function tries catch-ups of
// growing length. Call it only while the policy is plain decoding.
constexpr int64_t kStep = 300, kTargetNs = 1000;

int64_t allowance(const Tuner& tuner, Sequence& c) {
  const int64_t have = c.draft_have;
  int64_t found = 0;
  for (int64_t lag = 16; lag <= kMaxRows; ++lag) {
    c.draft_have = c.head - lag;
    if (tuner.wants_to_look(c, c.head)) found = kStep * lag;
  }
  c.draft_have = have;
  return found;
}

// Every token has rank 2 in the draft's distribution. So the draft is not the best policy, but
// worth a trial.
int books_trials() {
  std::vector<int32_t> trunk(kTokens);
  std::vector<uint8_t> rank(kTokens, 2);
  Costs costs;
  for (int n = 1; n <= kCostRows; ++n) costs.alone.target[n] = kTargetNs;
  for (int n = 1; n <= kCostRows; ++n) costs.alone.draft[n] = n <= 2 ? 400 : kStep * n;
  Policy serial = policy_of(kBurst);
  serial.burst = 1;
  Tuner tuner({policy_of(kGoOn), serial}, costs, kTokens);
  auto c = std::make_unique<Sequence>();
  c->trunk = trunk.data();
  c->rank = rank.data();
  c->head = c->draft_have = 100;
  tuner.begin(*c);
  tuner.next(*c);  // draft_limit is still 0, so no trial begins
  const auto rounds = [&](int64_t ns, int64_t last_ns) {
    for (; tuner.stays(*c, c->head); c->draft_have = ++c->head) tuner.saw({1, ns, 1, true});
    tuner.saw({1, last_ns, 1, true});
    c->draft_have = ++c->head;
  };
  c->draft_limit = kTokens;
  const int64_t first = allowance(tuner, *c);
  rounds(kTargetNs, 5 * kTargetNs);
  const int64_t second = allowance(tuner, *c);
  if (second < first) return failed("a slow round of plain decoding was booked as a trial's");
  tuner.next(*c);
  if (c->policy.on_miss != kBurst) return failed("it did not try the draft");
  rounds(1800, 10 * kTargetNs);
  tuner.next(*c);
  if (c->policy.on_miss != kGoOn) return failed("it did not go back to plain decoding");
  if (allowance(tuner, *c) > second - 9 * kTargetNs)
    return failed("the last round of a trial was not booked");
  return 0;
}

// Candidates have ranks from 0 up. Every other token has rank kCandidates.
int ranks_tokens() {
  uint8_t rank[kCandidates + 3] = {};
  auto c = std::make_unique<Sequence>();
  note_rank(*c, 1, Dist{}, 0);  // this sequence has no array of ranks
  c->rank = rank;
  Dist dist{};
  dist.n = kCandidates;
  for (int i = 0; i < kCandidates; ++i) dist.token[i] = 100 + i;
  for (int i = 0; i < kCandidates; ++i) note_rank(*c, i, dist, 100 + i);
  note_rank(*c, kCandidates, dist, 7);
  dist.n = 3;
  note_rank(*c, kCandidates + 1, dist, 103);  // candidates end at dist.n
  for (int i = 0; i < kCandidates; ++i)
    if (rank_at(rank, i) != 1 + i) return failed("a candidate has another's rank");
  for (int i = kCandidates; i < kCandidates + 2; ++i)
    if (rank_at(rank, i) != 1 + kCandidates) return failed("another token has a candidate's rank");
  if (rank_at(rank, kCandidates + 2) != kUnknownRank) return failed("a rank nobody noted");
  return 0;
}

// Lets the tuner predict rates at the end of `trunk`, with `alike` sequences in the round. Returns the
// sequence.
std::unique_ptr<Sequence> looked(Tuner& tuner, std::vector<int32_t>& trunk,
                                 std::vector<uint8_t>& rank, int alike) {
  auto c = std::make_unique<Sequence>();
  c->trunk = trunk.data();
  c->rank = rank.data();
  c->head = c->draft_have = kPrompt;
  tuner.begin(*c);
  tuner.share(alike, 0);
  c->head = c->draft_have = kTokens - 1;
  tuner.look(*c, c->head);
  return c;
}

// Returns the predicted rate, in tokens per round of plain decoding, of a policy that joins look-ups
// with bursts. Ten tokens repeat, with two new ones between them. The draft is never right, and its
// step takes three times as long as the target. Of twelve tokens, a look-up or two give nine, and three
// rounds have a burst. So the rate is between 12 / 13 and 12 / 14. If each round had a burst, it would
// be between 12 / 16 and 12 / 20.
double joined_rate(int alike) {
  std::vector<int32_t> trunk(kTokens);
  for (int64_t i = 0; i < kTokens; ++i)
    trunk[i] = static_cast<int32_t>(i % 12 < kPeriod ? i % 12 : kTokens + i);
  std::vector<uint8_t> rank(kTokens, 9);
  Costs costs;
  for (int n = 1; n <= kCostRows; ++n) costs.alone.target[n] = kTargetNs;
  for (int n = 1; n <= kCostRows; ++n) costs.overlapped.target[n] = 2 * kTargetNs;
  for (int n = 1; n <= kCostRows; ++n) costs.alone.draft[n] = 3 * kTargetNs;
  Policy joined = policy_of(kBurst);
  joined.burst = 1;
  joined.lookup = 1;
  Tuner tuner({policy_of(kGoOn), joined}, costs, kTokens);
  looked(tuner, trunk, rank, alike);
  return tuner.arms()[1].rate * kTargetNs;
}

int prices_bursts() {
  const double alone = joined_rate(1), together = joined_rate(16);
  if (alone < 0.8) return failed("rounds that look-ups fill are charged a burst");
  if (together > 0.75) return failed("rounds in company are charged no burst of the others");
  return 0;
}

// Returns the burst that the tuner sets for `alike` sequences. A draft step takes a fifth of a
// forward of the target. Of `period` tokens the draft misses one.
constexpr int kLongest = 12;

int burst_of(int alike, int period) {
  std::vector<int32_t> trunk(kTokens);
  std::vector<uint8_t> rank(kTokens, 1);
  for (int64_t i = 0; i < kTokens; ++i) trunk[i] = static_cast<int32_t>(i);
  for (int64_t i = 0; i < kTokens; i += period) rank[i] = 9;
  Costs costs;
  for (int n = 1; n <= kCostRows; ++n) costs.alone.target[n] = kTargetNs;
  for (int n = 1; n <= kCostRows; ++n) costs.alone.draft[n] = kTargetNs / 5;
  Policy serial = policy_of(kBurst);
  serial.burst = kLongest;
  Tuner tuner({policy_of(kGoOn), serial}, costs, kTokens);
  const auto c = looked(tuner, trunk, rank, alike);
  tuner.follow(*c, 1);
  return c->policy.burst;
}

int limits_shared_bursts() {
  if (burst_of(1, 3) != kLongest) return failed("a sequence alone has a shorter burst");
  if (burst_of(8, 3) > 3) return failed("in company a burst goes on after it pays");
  if (burst_of(8, kTokens) < 8) return failed("in company a burst ends too early");
  return 0;
}

}  // namespace
}  // namespace sbrt

int main() {
  return sbrt::leaves_for_good() + sbrt::books_trials() + sbrt::ranks_tokens() +
         sbrt::prices_bursts() + sbrt::limits_shared_bursts();
}
