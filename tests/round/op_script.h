// Runs rounds of ops without a model. Distributions and sampled tokens are random; the ops compute
// everything else. The script works on one state. A caller may repeat each op on a copy of the
// state, and compare the two states.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "round/grow_op.h"
#include "round/hrad_op.h"
#include "round/plan_op.h"
#include "round/kernels.h"
#include "round/select_op.h"
#include "round/settle_op.h"

namespace sbrt {

// All memory that the ops of an engine use, in one struct. So a copy of the struct is a copy of
// everything.
struct OpState {
  static constexpr int kVocab = 24, kLength = 512;

  Sequence sequence;
  TargetScratch target;
  DraftScratch drafted;
  Roll roll;
  int64_t ended;
  Records records;
  int32_t trunk[kLength + kSlots];
  uint8_t rank[kLength + kSlots];
  int32_t distinct[kVocab], output[kVocab];
  uint8_t seen[kVocab];

  // Sizes of H-RAD. They are chosen such that the number of parts of the inputs is no power of two,
  // and the last part is not full.
  static constexpr int kHidden = 107, kInputs = kFeatureBlocks * kHidden + 2 * kHradTail;
  static constexpr HradSplit kSplit = hrad_split(kInputs, 2);
  static_assert(kInputs % 2 == 1 && (kSplit.count & (kSplit.count - 1)) != 0 &&
                kSplit.room() > kInputs);
  DType dtype;
  // Numbers of the type `dtype`.
  uint32_t features[kSlots * kFeatureLayers * kHidden], embed[kVocab * kHidden];
  uint32_t first[kHradInner * kSplit.room() / 2], second[kHradNarrow * kHradInner];
  uint32_t third[kPanel * kHradNarrow];
  float bias[kHradLayers][kHradInner], shown[kInputs];
  alignas(16) float x[kSplit.room()];
  alignas(16) float inner[kHradInner];

  // Sets the pointers of this state to the arrays of the state at address `place`.
  void aim(OpState* place) {
    sequence.trunk = place->trunk;
    sequence.rank = place->rank;
    sequence.counts.token = place->distinct;
    sequence.counts.output = place->output;
    sequence.counts.seen = place->seen;
  }
};

// The functions below return the arguments of ops for a state at `place`, which may be on a device.
// They do not read the state.
inline Seats seats_at(OpState* place) { return {&place->sequence, 1, &place->roll, &place->ended}; }
inline LaneArgs lane_at(OpState* place, bool is_draft) {
  constexpr RingShape kShape{
      OpState::kLength + kSlots, OpState::kLength, kMaxBranches, 40, 1, 1, 4};
  return {seats_at(place),
          is_draft ? &place->drafted.batch : &place->target.batch,
          is_draft ? place->drafted.dist : nullptr,
          nullptr,
          kShape,
          64};
}
inline GatherArgs gather_at(OpState* place) {  // arguments of the draft's gather
  return {seats_at(place), &place->drafted.batch, true, 0};
}
inline SelectArgs select_at(OpState* place) {
  return {seats_at(place),
          &place->target.batch,
          place->target.choice,
          &place->records,
          nullptr,
          nullptr,
          nullptr,
          nullptr,
          {}};
}
inline HradArgs hrad_at(OpState* place, DType dtype) {
  return {seats_at(place),
          &place->target.batch,
          {place->features, place->embed, OpState::kHidden, dtype},
          place->x,
          place->shown,
          place->inner,
          {{place->first, place->bias[0]},
           {place->second, place->bias[1]},
           {place->third, place->bias[2]}}};
}

inline bool is_same(const OpState& a, const OpState& b) {
  return std::memcmp(&a, &b, sizeof(OpState)) == 0;
}

// Working memory for any of the ops.
union OpScratch {
  PlanScratch plan;
  GrowScratch grow;
  SelectScratch select;
  FeatureScratch features;
  InnerScratch inner;
  CutScratch cut;
};

// Runs an op that computes or reads the outcome: `select`, the ops of H-RAD, or an op after them.
template <class Team>
void run_outcome_op(RoundOp op, OpState& s, OpScratch& shared, Team team) {
  const HradArgs of_hrad = hrad_at(&s, s.dtype);
  const HradSeat hrad = hrad_seat(of_hrad, 0);
  switch (op) {
    case RoundOp::select:
      select_op(select_at(&s).of(0), team);
      break;
    case RoundOp::hrad_features:
      hrad_features_op(hrad, shared.features, team);
      break;
    case RoundOp::hrad_inner:
      for (int panel = 0; panel < kHradPanels; ++panel)
        hrad_inner_op(hrad, panel, shared.inner, team);
      break;
    case RoundOp::hrad_cut:
      hrad_cut_op(hrad, shared.cut, team);
      break;
    case RoundOp::attach_chain:
      attach_chain_op(select_at(&s).of(0), shared.select, team);
      break;
    case RoundOp::attach_burst:
      attach_burst_op(s.sequence, shared.select, team);
      break;
    case RoundOp::end_round:
      if (team.rank == 0) ++s.ended;
      break;
    default:
      break;
  }
}

// Runs one op as one member of a team. `shared`: the working memory that the team shares.
template <class Team>
void run_op(RoundOp op, OpState& s, OpScratch& shared, Team team) {
  const LaneArgs of_target = lane_at(&s, false), of_draft = lane_at(&s, true);
  const LaneSeat target = of_target.of(0), draft = of_draft.of(0);
  switch (op) {
    case RoundOp::target_rows:
      target_rows_op(target, team);
      break;
    case RoundOp::prefill_target_rows:
      prompt_rows_op(target, s.sequence.target_have, team);
      break;
    case RoundOp::prefill_draft_rows:
      prompt_rows_op(draft, s.sequence.draft_have, team);
      break;
    case RoundOp::gather_draft:
      gather_op(gather_at(&s), team);
      break;
    case RoundOp::settle_draft:
      settle_draft_op(draft, team, NoKv{});
      break;
    case RoundOp::move_burst:
      move_burst_op(draft, team, NoKv{});
      break;
    case RoundOp::plan:
      plan_op(draft, shared.plan, team);
      break;
    case RoundOp::plan_certain:
      if (team.rank == 0) plan_certain_op(draft);
      break;
    case RoundOp::keep_dists:
      keep_dists_op(draft, team);
      break;
    case RoundOp::extend:
      extend_op(draft, shared.grow, team);
      break;
    default:
      run_outcome_op(op, s, shared, team);
  }
}

class OpScript {
 public:
  OpScript(uint64_t seed, OpState& state) : random_(seed), state_(state), c_(state.sequence) {
    std::memset(&state_, 0, sizeof state_);
    state_.aim(&state_);
    for (uint64_t& word : state_.roll.word) word = 1;
    begin();
  }

  // Processes the prompt. `run(op)` runs an op on the state.
  template <class Run>
  void prefill(const Run& run) {
    while (c_.target_have < c_.head) run(RoundOp::prefill_target_rows);
    while (c_.draft_have < c_.head - lag_) run(RoundOp::prefill_draft_rows);
  }

  // Runs one round. Returns false if the trunk is full or the outcome has an error.
  template <class Run>
  bool round(const Run& run) {
    const bool serial = missed_ && c_.policy.on_miss == kBurst && c_.policy.burst > 0;
    const bool drafts = serial || c_.policy.gamma > 0;
    if (drafts) run(RoundOp::settle_draft);
    if (serial) {
      run(RoundOp::plan_certain);
      burst(run, c_.policy.burst);
      run(RoundOp::attach_burst);
      run(RoundOp::move_burst);
    }
    run(RoundOp::target_rows);
    choose_all();
    if (c_.policy.gamma > 0) {
      run(RoundOp::gather_draft);
      draw_dists();
      run(RoundOp::keep_dists);
      run(RoundOp::plan);
      burst(run, c_.policy.gamma);
    }
    if (!drafts) c_.branch_count = 0;
    run(RoundOp::select);
    if (c_.policy.hrad) {
      draw_features();
      for (const RoundOp op : {RoundOp::hrad_features, RoundOp::hrad_inner, RoundOp::hrad_cut})
        run(op);
    }
    run(RoundOp::attach_chain);
    run(RoundOp::end_round);
    missed_ = c_.outcome.branch < 0;
    return c_.head + 1 < c_.limit && !c_.outcome.error;
  }

 private:
  int below(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }
  int from(int low, int high) { return low + below(high - low + 1); }
  bool chance(int percent) { return below(100) < percent; }
  float unit() { return static_cast<float>(below(1 << 20)) * 0x1p-20f; }

  // Draws a policy that check_policy accepts, and a prompt.
  void begin() {
    Policy& p = c_.policy;
    p.gamma = from(0, 5);
    p.branches = from(1, 12);
    p.ranking = from(0, 2);
    p.width = p.ranking == kLikely && chance(50) ? from(2, 4) : 1;
    p.nodes = from(1, 30);
    p.epsilon = chance(50) ? 0 : 0.3f;
    p.on_miss = from(0, 2);
    p.burst = from(0, 5);
    p.burst_width = p.ranking == kLikely && chance(50) ? from(2, 4) : 1;
    p.lambda = chance(30) ? 0.5f : 0;
    p.theta = 0.2f;
    p.hrad = chance(50);
    if (p.hrad) draw_classifier();
    c_.prices.known = chance(30);
    c_.prices.least = -3;
    for (int n = 0; n <= kMaxRows; ++n) c_.prices.round[n] = 1 + 0.1f * static_cast<float>(n);
    c_.shaping.active = c_.shaping.penalises = chance(30);
    const int length = from(2, 200);
    for (int i = 0; i < length; ++i) {
      state_.trunk[i] = below(OpState::kVocab);
      if (c_.shaping.penalises) count_token(c_.counts, state_.trunk[i], false);
    }
    for (uint8_t& rank : state_.rank) rank = kUnknownRank;
    c_.head = length - 1;
    c_.limit = length + from(20, 120);
    c_.draft_limit = chance(70) ? OpState::kLength : c_.limit - below(10);
    c_.draft_vocab = chance(70) ? OpState::kVocab : from(1, OpState::kVocab);
    lag_ = below(4);
    c_.chain.next[0] = -1;
    p.lookup = chance(50);
    c_.chain.token[0] = state_.trunk[length - 1];
    c_.chain.parent[0] = -1;
    c_.chain.mask[0] = Mask::upto(1);
    c_.outcome.branch = -1;
    c_.sharpness = chance(50) ? 2.5f : 1.0f;
  }

  uint32_t weight() { return __builtin_bit_cast(uint32_t, 0.3f * (unit() - 0.5f)); }
  // Returns the bits of one float32, or of two 16-bit floats. Each float has a magnitude below 2.
  uint32_t feature() {
    const uint32_t wide = __builtin_bit_cast(uint32_t, 2 * unit() - 1);
    if (state_.dtype == DType::f32) return wide;
    if (state_.dtype == DType::bf16) return wide >> 16 << 16 | weight() >> 16;
    return static_cast<uint32_t>(random_()) & 0xbfffbfffu;
  }
  void draw_classifier() {
    constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16};
    state_.dtype = kTypes[below(3)];
    for (uint32_t& pair : state_.first) pair = weight() >> 16 << 16 | weight() >> 16;
    for (uint32_t& w : state_.second) w = weight();
    for (uint32_t& w : state_.third) w = weight();
    for (float& b : state_.bias[0]) b = unit() - 0.5f;
    for (float& b : state_.bias[1]) b = unit() - 0.5f;
    for (float& b : state_.bias[2]) b = 0.1f * unit();
    for (uint32_t& e : state_.embed) e = feature();
  }
  // Draws the target's features for the last accepted node.
  void draw_features() {
    const int words = kFeatureLayers * OpState::kHidden;
    for (int i = 0; i < words; ++i) state_.features[c_.outcome.node * words + i] = feature();
  }

  // Draws different candidates with falling confidence; a few are tied.
  void draw_dist(Dist& dist) {
    dist.n = chance(5) ? 0 : from(1, kCandidates);
    dist.q = unit();
    dist.entropy = 3 * unit();
    float lp = -unit();
    const int first = below(OpState::kVocab);
    for (int r = 0; r < dist.n; ++r) {
      dist.token[r] = (first + r * 7) % OpState::kVocab;
      dist.lp[r] = lp;
      if (!chance(20)) lp -= unit();
    }
  }
  void draw_dists() {
    for (int i = 0; i < state_.drafted.batch.n; ++i) draw_dist(state_.drafted.dist[i]);
  }

  // Draws the target's token after each node. It is mostly the token of a child or a candidate of
  // the draft. Sometimes some nodes are not verified, as if the batch had no room for them.
  void choose_all() {
    c_.verified = Mask::upto(c_.chain.size + 1);
    const int crowded = chance(20) ? 30 : 0;
    for (int i = 1; i <= c_.chain.size; ++i)
      if (!c_.verified.has(c_.chain.parent[i]) || chance(crowded))
        c_.verified = c_.verified.without(i);
    for (int i = 0; i <= c_.chain.size; ++i) {
      int32_t token = below(OpState::kVocab);
      for (int node = i + 1; node <= c_.chain.size; ++node)
        if (c_.chain.parent[node] == i && chance(70)) token = c_.chain.token[node];
      if (c_.draft_nodes.has(i) && c_.chain_dist[i].n > 0 && chance(30))
        token = c_.chain_dist[i].token[below(c_.chain_dist[i].n)];
      state_.target.choice[verified_before(c_, i)] = {token, chance(1) && i > 0 ? kNanRow : kFine};
    }
  }

  template <class Run>
  void burst(const Run& run, int steps) {
    for (int step = 0; step < steps; ++step) {
      run(RoundOp::gather_draft);
      draw_dists();
      run(RoundOp::extend);
    }
  }

  std::mt19937_64 random_;
  OpState& state_;
  Sequence& c_;
  int lag_ = 0;  // number of prompt tokens that the draft has not processed
  bool missed_ = true;
};

}  // namespace sbrt
