// The ops of op_table.inc that have a kernel, each in one form for the host and for devices.
//
// An op is a struct. `Memory` is the working memory that the members of a team share. `run(args,
// at, memory, team)` runs the op as one member of the team. It runs for one seat, or for one of
// several blocks of a seat. An op for all seats together ignores `at`.
#pragma once

#include "round/accept_op.h"
#include "round/crew.h"
#include "round/grow_op.h"
#include "round/hrad_op.h"
#include "round/logprob_op.h"
#include "round/plan_op.h"
#include "round/select_op.h"
#include "round/settle_op.h"

namespace sbrt {

// The work of a team: a seat and, if several blocks of threads work on the seat, the number of the
// team's block.
struct At {
  int seat = 0, block = 0;
};

struct NoMemory {};

struct SettleDraft {
  using Memory = NoMemory;
  template <class Team>
  SBRT_ANY static void run(const LaneArgs& args, At at, Memory&, Team team) {
    settle_draft_op(args.of(at.seat), team, NoKv{});
  }
};

struct MoveBurst {
  using Memory = NoMemory;
  template <class Team>
  SBRT_ANY static void run(const LaneArgs& args, At at, Memory&, Team team) {
    move_burst_op(args.of(at.seat), team, NoKv{});
  }
};

struct MoveScores {
  using Memory = NoMemory;
  template <class Team>
  SBRT_ANY static void run(const LaneArgs& args, At at, Memory&, Team team) {
    const Sequence& c = args.seats.at[at.seat];
    if (is_rejection(c) && c.outcome.branch >= 0)
      move_scores_op(c, c.outcome.branch, at.block, team);
  }
};

struct MoveBurstScores {
  using Memory = NoMemory;
  template <class Team>
  SBRT_ANY static void run(const LaneArgs& args, At at, Memory&, Team team) {
    const Sequence& c = args.seats.at[at.seat];
    if (is_rejection(c) && awaits_burst(c) && !c.draft_idle) move_scores_op(c, 0, at.block, team);
  }
};

struct FollowTrunk {
  using Memory = NoMemory;
  template <class Team>
  SBRT_ANY static void run(const LaneArgs& args, At at, Memory&, Team team) {
    if (team.rank == 0) follow_trunk_op(args.of(at.seat));
  }
};

struct TargetRows {
  using Memory = NoMemory;
  template <class Team>
  SBRT_ANY static void run(const LaneArgs& args, At at, Memory&, Team team) {
    target_rows_op(args.of(at.seat), team);
  }
};

struct PrefillTargetRows {
  using Memory = NoMemory;
  template <class Team>
  SBRT_ANY static void run(const LaneArgs& args, At at, Memory&, Team team) {
    prompt_rows_op(args.of(at.seat), args.seats.at[at.seat].target_have, team);
  }
};

struct PrefillDraftRows {
  using Memory = NoMemory;
  template <class Team>
  SBRT_ANY static void run(const LaneArgs& args, At at, Memory&, Team team) {
    prompt_rows_op(args.of(at.seat), args.seats.at[at.seat].draft_have, team);
  }
};

struct GatherTarget {
  using Memory = NoMemory;
  template <class Team>
  SBRT_ANY static void run(const GatherArgs& args, At, Memory&, Team team) {
    gather_op(args, team);
  }
};
using GatherPrompt = GatherTarget;
using GatherDraft = GatherTarget;

struct Plan {
  using Memory = PlanScratch;
  template <class Team>
  SBRT_ANY static void run(const LaneArgs& args, At at, Memory& memory, Team team) {
    plan_op(args.of(at.seat), memory, team);
  }
};

struct PlanCertain {
  using Memory = NoMemory;
  template <class Team>
  SBRT_ANY static void run(const LaneArgs& args, At at, Memory&, Team team) {
    if (team.rank == 0) plan_certain_op(args.of(at.seat));
  }
};

struct KeepDists {
  using Memory = NoMemory;
  template <class Team>
  SBRT_ANY static void run(const LaneArgs& args, At at, Memory&, Team team) {
    keep_dists_op(args.of(at.seat), team);
  }
};

struct Extend {
  using Memory = GrowScratch;
  template <class Team>
  SBRT_ANY static void run(const LaneArgs& args, At at, Memory& memory, Team team) {
    extend_op(args.of(at.seat), memory, team);
  }
};

struct WalkByChance {
  using Memory = AcceptScratch;
  template <class Team>
  SBRT_ANY static void run(const SelectArgs& args, At at, Memory& memory, Team team) {
    const SelectSeat mine = args.of(at.seat);
    walk_by_chance_op(*mine.sequence, mine.choice, args.place_of(at.seat), memory, team);
  }
};

struct Select {
  using Memory = NoMemory;
  template <class Team>
  SBRT_ANY static void run(const SelectArgs& args, At at, Memory&, Team team) {
    select_op(args.of(at.seat), team);
  }
};

struct HradFeatures {
  using Memory = FeatureScratch;
  template <class Team>
  SBRT_ANY static void run(const HradArgs& args, At at, Memory& memory, Team team) {
    hrad_features_op(hrad_seat(args, at.seat), memory, team);
  }
};

struct HradInnerSums {
  using Memory = InnerScratch;
  template <class Team>
  SBRT_ANY static void run(const HradArgs& args, At at, Memory& memory, Team team) {
    hrad_inner_op(hrad_seat(args, at.seat), at.block, memory, team);
  }
};

struct HradCut {
  using Memory = CutScratch;
  template <class Team>
  SBRT_ANY static void run(const HradArgs& args, At at, Memory& memory, Team team) {
    hrad_cut_op(hrad_seat(args, at.seat), memory, team);
  }
};

struct AttachChain {
  using Memory = SelectScratch;
  template <class Team>
  SBRT_ANY static void run(const SelectArgs& args, At at, Memory& memory, Team team) {
    attach_chain_op(args.of(at.seat), memory, team);
    show_host();  // the host reads the record
  }
};

struct AttachBurst {
  using Memory = SelectScratch;
  template <class Team>
  SBRT_ANY static void run(const SelectArgs& args, At at, Memory& memory, Team team) {
    attach_burst_op(args.seats.at[at.seat], memory, team);
  }
};

struct OutputLogprobRows {
  using Memory = LogprobScratch;
  template <class Team>
  SBRT_ANY static void run(const LogprobArgs& args, At at, Memory& memory, Team team) {
    output_logprobs_op(args, at.seat, at.block, memory, team);
    show_host();  // the host reads the entries
  }
};

struct PromptLogprobRows {
  using Memory = LogprobScratch;
  template <class Team>
  SBRT_ANY static void run(const LogprobArgs& args, At at, Memory& memory, Team team) {
    prompt_logprobs_op(args, at.seat, at.block, memory, team);
    show_host();
  }
};

struct EndRound {
  using Memory = NoMemory;
  template <class Team>
  SBRT_ANY static void run(const EndArgs& args, At, Memory&, Team team) {
    if (team.rank == 0) ++*args.ended;
  }
};
using EndTargetPiece = EndRound;
using EndDraftPiece = EndRound;

}  // namespace sbrt
