// Random input for the ops of rejection, without a model: chains, branches and scores. The
// vocabulary may have more tokens than a sum has lanes (kSumLanes).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "round/accept_op.h"
#include "round/op_args.h"

namespace sbrt {

// All memory that the ops use, in one struct. So a copy of the struct is a copy of everything.
struct ChanceState {
  static constexpr int32_t kVocab = 2600, kTailSlots = 4, kForks = 3;

  Sequence sequence;
  TargetScratch target;
  Roll roll;
  int64_t ended;
  Records records;
  float scores[kMaxRows * kVocab];
  float chain[kSlots * kVocab];
  float in_place[kMaxTail * kVocab];
  float tails[kForks * kTailSlots * kVocab];
  int32_t ids[kVocab];
  double dists[2 * kVocab];

  // Sets the pointers of this state to the arrays of the state at address `place`.
  void aim(ChanceState* place) {
    Scores& s = sequence.scores;
    s.target = place->scores;
    s.chain = place->chain;
    s.in_place = place->in_place;
    s.tails = place->tails;
    s.ids = s.columns < s.vocab ? place->ids : nullptr;
  }
};

// These functions return the arguments of ops for a state at `place`, which may be on a device.
// They do not read the state.
inline SelectArgs walk_at(ChanceState* place) {
  return {{&place->sequence, 1, &place->roll, &place->ended},
          &place->target.batch,
          place->target.choice,
          &place->records,
          nullptr,
          nullptr,
          nullptr,
          nullptr,
          place->dists};
}
inline LaneArgs scores_at(ChanceState* place) {
  return {{&place->sequence, 1, &place->roll, &place->ended}, nullptr, nullptr, nullptr, {}, 64};
}

inline bool is_same(const ChanceState& a, const ChanceState& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

// Fills a state at random. Its pointers point to its own arrays.
class ChanceScript {
 public:
  ChanceScript(uint64_t seed, ChanceState& state)
      : random_(seed), s_(state), c_(state.sequence), scores_(state.sequence.scores) {
    std::memset(&s_, 0, sizeof s_);
    for (uint64_t& word : s_.roll.word) word = 1;
    scores_.vocab = 3 + below(seed % 4 == 0 ? ChanceState::kVocab - 3 : 12);
    scores_.columns = seed % 3 == 0 ? 1 + scores_.vocab / 2 : scores_.vocab;
    scores_.tail_slots = ChanceState::kTailSlots;
    for (int32_t i = 0; i < scores_.columns; ++i)
      s_.ids[i] = std::min(scores_.columns < scores_.vocab ? 2 * i : i, scores_.vocab - 1);
    c_.policy.rejection = 1;
    c_.sampling.temperature = 1;
    c_.sampling.seed = seed;
    c_.head = below(100);
    draw_chain();
    fill(s_.scores, kMaxRows, scores_.vocab);
    fill(s_.chain, kSlots, scores_.columns);
    fill(s_.in_place, kMaxTail, scores_.columns);
    fill(s_.tails, ChanceState::kForks * ChanceState::kTailSlots, scores_.columns);
    agree();
    for (Choice& choice : s_.target.choice)
      choice = {below(scores_.vocab), below(60) == 0 ? kNanRow : kFine};
    s_.aim(&s_);
  }

 private:
  int below(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }
  // A token to which the draft gives a score.
  int32_t drawn() { return s_.ids[below(scores_.columns)]; }
  void fill(float* scores, int rows, int columns) {
    for (int64_t i = 0; i < int64_t{rows} * columns; ++i)
      scores[i] =
          i % columns > 0 && below(8) == 0 ? -INFINITY : static_cast<float>(below(4000)) / 1000;
  }
  // At some nodes, gives the target and the draft the same distribution. Then almost no probability
  // is left after a rejection.
  void agree() {
    if (scores_.columns < scores_.vocab) return;
    for (int node = 0; node <= c_.chain.size; ++node)
      if (below(3) == 0)
        std::copy_n(s_.scores + int64_t{node} * scores_.vocab, scores_.vocab,
                    s_.chain + int64_t{node} * scores_.vocab);
  }
  void draw_chain() {
    constexpr int kNodes = 9;
    c_.chain.mask[0] = Mask::upto(1);
    const int size = below(kNodes);
    for (int i = 1; i <= size; ++i) {
      const int parent = below(i), node = attach_node(c_.chain, parent, drawn(), -1);
      bool has_known = false;
      for (int j = 1; j < node; ++j)
        has_known |= c_.chain.parent[j] == parent && c_.chain.known.has(j);
      if (!has_known && below(5) == 0) c_.chain.known = c_.chain.known.with(node);
    }
    c_.draft_nodes = c_.verified = Mask::upto(size + 1);
    c_.branch_count = below(ChanceState::kForks + 1);
    for (int b = 0; b < c_.branch_count; ++b) {
      Branch& branch = c_.branches[b];
      branch.node = below(size + 1);
      branch.in_place = b == 0 && below(2);
      for (int j = 0; j < ChanceState::kTailSlots; ++j) {
        branch.token[j] = drawn();
        branch.has_dist[j] = below(4) > 0;
      }
    }
    c_.outcome.branch = c_.branch_count - 1;  // its scores move
    for (int i = 0; i <= size; ++i) c_.source[i] = below(ChanceState::kTailSlots + 1) - 1;
  }

  std::mt19937_64 random_;
  ChanceState& s_;
  Sequence& c_;
  Scores& scores_;
};

}  // namespace sbrt
