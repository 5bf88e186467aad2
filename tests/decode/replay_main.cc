// Checks JoinedReplay, which replays rounds that join look-ups with a serial burst: how many tokens
// its rounds commit, and how many of them have no burst. Checks how many tokens LookupReplay expects
// of rounds with a draft.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "decode/auto/joined_replay.h"

namespace sbrt {
namespace {

constexpr int64_t kPrompt = 20, kTokens = 100;

int failed(const char* what) { return std::printf("FAILED: %s\n", what), 1; }
bool near(double a, double b) { return std::abs(a - b) < 1e-9; }

// A sequence whose tokens and ranks are set in advance.
struct Text {
  std::vector<int32_t> trunk;
  std::vector<uint8_t> rank;  // as Sequence::rank
  std::unique_ptr<Sequence> c = std::make_unique<Sequence>();
  TrunkIndex index{kTokens};

  // period: after the prompt the tokens repeat with this period; 0: no token occurs twice.
  Text(int64_t period, uint8_t every_rank) : rank(kTokens, every_rank) {
    for (int64_t i = 0; i < kTokens; ++i)
      trunk.push_back(static_cast<int32_t>(i < kPrompt || period == 0 ? i : i % period));
    c->trunk = trunk.data();
    c->rank = rank.data();
    index.read(trunk.data(), kTokens);
  }
  void read(JoinedReplay& replay, int64_t step) const {
    for (int64_t head = kPrompt; head < kTokens; head += step) replay.read(*c, index, head);
  }
};

// Returns the sums over rounds with bursts of 3 steps, after all tokens were read.
JoinedReplay::Played played(const Text& text, int width, double path_tokens, int64_t step = 1,
                            int most = kMaxChain) {
  JoinedReplay replay;
  PathReplay path;
  path.read(nullptr, kPrompt);
  replay.begin(kPrompt, path);
  text.read(replay, step);
  return replay.play(3, width, path_tokens, most);
}

// No token occurs twice, so each round has a burst. Its nodes are accepted by the draft's ranks.
int drafts_by_rank() {
  struct Case {
    uint8_t rank;
    int width;
    double tokens;
  };
  // Rank 1 is the most probable token. A tree of 2 holds ranks whose product is at most 2.
  const Case cases[] = {{1, 1, 4}, {2, 1, 1}, {2, 4, 2}, {2, 12, 3}, {7, 12, 1}};
  for (const Case& each : cases) {
    const auto sum = played(Text(0, each.rank), each.width, 1);
    if (sum.filled != 0 || sum.missed != 0) return failed("a look-up of what never repeats");
    if (!near(sum.tokens, each.tokens * sum.drafted))
      return failed("tokens of a burst by its ranks");
    if (sum.tokens < kTokens - kPrompt - 4) return failed("not all tokens were replayed");
  }
  return 0;
}

// Where ranks are not known, rounds commit the given mean of tokens.
int guesses_ranks() {
  for (const double mean : {1.0, 1.5, 2.75}) {
    const auto sum = played(Text(0, kUnknownRank), 1, mean);
    if (std::abs(sum.tokens / sum.drafted - mean) > 0.05) return failed("the mean of the guesses");
  }
  return 0;
}

// The tokens repeat, and the draft is never right. Once look-ups are known to be right, rounds have
// no burst, and commit more and more tokens.
int fills_rounds() {
  const auto sum = played(Text(7, 9), 1, 1);
  if (sum.filled < 5 || sum.missed < 50)
    return failed("rounds of a text that repeats have no burst");
  if (sum.tokens / sum.rounds() < 3) return failed("look-ups that are right give few tokens");
  if (!(sum.rows > 3 * sum.filled)) return failed("rows of rounds without a burst");
  for (const int64_t step : {2, 5})
    if (played(Text(7, 9), 1, 1, step).filled < 5)
      return failed("it matters how many tokens are read at once");
  return 0;
}

// No round has more nodes than a chain may have.
int keeps_to_the_most_nodes() {
  const auto filled = played(Text(7, 9), 1, 1, 1, 2);
  if (!near(filled.rows, 3 * filled.filled))
    return failed("rows of rounds with two looked-up nodes");
  if (filled.tokens > 3 * filled.rounds()) return failed("more tokens than nodes allow");
  const auto drafted = played(Text(0, 1), 1, 1, 1, 2);
  if (!near(drafted.tokens, 3 * drafted.drafted))
    return failed("a burst of more nodes than allowed");
  return 0;
}

// In the text, 10 of 12 tokens repeat. A look-up needs two of them before it, and finds up to 4 tokens. So
// without a draft two rounds commit 5 and 4 tokens, and three rounds commit one token each. A draft
// that gives 2 tokens per round needs one and a half rounds for these three tokens.
int adds_look_ups_to_a_draft() {
  constexpr int64_t kMany = 1200;
  std::vector<int32_t> trunk(kMany);
  for (int64_t i = 0; i < kMany; ++i)
    trunk[i] = static_cast<int32_t>(i % 12 < 10 ? i % 12 : kMany + i);
  TrunkIndex index(kMany);
  index.read(trunk.data(), kMany);
  LookupReplay replay(4);
  replay.begin(trunk.data(), index, 600);
  replay.read(trunk.data(), index, kMany - 1);
  if (std::abs(replay.tokens() - 12 / 5.0) > 0.1) return failed("tokens of look-ups alone");
  if (std::abs(replay.tokens_with(2) - 12 / 3.5) > 0.1) return failed("tokens with a draft");
  if (std::abs(replay.tokens_with(1) - replay.tokens()) > 1e-9)
    return failed("a draft that gives nothing adds tokens");
  if (!near(replay.tokens_with(9), 9)) return failed("a draft that gives more loses tokens");
  return 0;
}

// A new sequence is first assumed to go as the last one did.
int carries_over() {
  JoinedReplay replay;
  PathReplay path;
  path.read(nullptr, kPrompt);
  replay.begin(kPrompt, path);
  const Text text(0, 1);
  text.read(replay, 1);
  const auto last = replay.play(3, 1, 1, kMaxChain);
  replay.begin(kPrompt, path);
  const auto next = replay.play(3, 1, 1, kMaxChain);
  if (!near(next.tokens / next.rounds(), last.tokens / last.rounds()))
    return failed("another forecast at the start of the next sequence");
  if (next.rounds() >= last.rounds()) return failed("the last sequence keeps all of its weight");
  return 0;
}

}  // namespace
}  // namespace sbrt

int main() {
  return sbrt::drafts_by_rank() + sbrt::guesses_ranks() + sbrt::fills_rounds() +
         sbrt::keeps_to_the_most_nodes() + sbrt::adds_look_ups_to_a_draft() + sbrt::carries_over();
}
