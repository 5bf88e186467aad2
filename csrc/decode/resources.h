// An engine's resources: models, lanes with their streams, and the memory that ops use.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "model/lane.h"
#include "ops/choose.h"
#include "decode/config.h"
#include "decode/feed.h"
#include "decode/hrad_memory.h"
#include "decode/lane_memory.h"
#include "decode/logprobs.h"
#include "decode/request.h"
#include "decode/score_memory.h"
#include "decode/launches.h"
#include "state/record.h"
#include "state/roll.h"

namespace sbrt {

// One model, with its stream, its KV ring and its graphs.
struct LaneUnit {
  std::unique_ptr<Lane> lane;
  Columns columns;  // the columns of the lane's logits that are tokens of the engine
  std::vector<ChooseScratch> scratch;
  std::unique_ptr<Stream> stream;
  LaneMemory* memory = nullptr;
  Batch* batch = nullptr;  // the host's copy of the batch
  // The memory block that contains the batch, as its first member.
  const Block* scratch_block = nullptr;
  Graph timed_forward{"timed_forward"};  // a forward of timed_rows rows, with sampling
  int threads = 1;                       // number of members of the lane's team
  int width = 1;                         // number of team members when the lane runs alone
  int32_t max_rows = 0;                  // number of rows of the largest forward
  int32_t timed_rows = 0;                // number of rows of timed_forward
  // [rows] virtual time of a forward in the next round, in ns.
  const int64_t* cost = nullptr;
  Feed feed;
  Event timed{"timed"};
  Roll* roll = nullptr;      // the seats that take part in each round of this lane
  Roll* fed_roll = nullptr;  // the seats that each prompt piece feeds
  int fed_at = 0;            // index of the lane's number of finished pieces in LaneMemory::ended
};

struct Resources {
  // `draft` may be null. Throws InvalidInput if the models do not fit the config or each other.
  Resources(std::shared_ptr<const Model> of_target, std::shared_ptr<const Model> of_draft,
            const RuntimeConfig& given);

  bool has_draft() const { return draft.lane != nullptr; }
  // Returns what the backend can do in the memory that this lane uses.
  Capabilities can(const LaneUnit& unit) const { return exec->can_at(unit.memory->place); }
  int count() const { return config.max_num_seqs; }  // number of seats
  bool is_apart() const { return config.is_apart(); }
  // Returns the host's copy of a sequence. If each lane has its own memory, it is the copy of the
  // sequence in the target's memory.
  Sequence& at(int seat) const { return memories[0].at(seat); }
  // Return the sequences that a lane's ops use: seats() for a round, fed_seats() for a prompt
  // piece.
  Seats seats(const LaneUnit& unit) const;
  Seats fed_seats(const LaneUnit& unit) const;
  // Fills a seat for a checked request, and sends its sequence to the memory that ops use. No round
  // and no prompt piece in flight may use the seat. target_have, draft_have: number of positions
  // whose KV the target and the draft already have.
  void start_sequence(int seat, const Request& request, int64_t target_have = 0,
                      int64_t draft_have = 0);
  // With two memories: these copy to a lane's memory what only the other lane's ops have written.
  // Between rounds, with no piece of the seat in flight. tell_trunk() gives the draft the tokens of
  // the rounds that it sat out. tell_have() tells the target how much the draft has processed.
  void tell_trunk(int seat);
  void tell_have(int seat);
  // Sends target_have and draft_have of the host's copy, before a piece of the seat's prompt is
  // fed.
  void send_have(int seat);
  // Returns how many of the first `most` tokens are equal to the seat's trunk, up to the first that
  // differs.
  int64_t same_tokens(int seat, const int32_t* tokens, int64_t most) const;
  int32_t* trunk(int seat) const { return memories[0].trunks.host() + seat * room(); }
  // Sets the counters of finished rounds to `round`. Sets the counters of finished pieces to the
  // number of pieces enqueued so far. Nothing may be in flight.
  void count_from(int64_t round);

  // Used by `auto` between rounds. Lets `change` set the policy and the prices of a seat in the
  // host's copy, and sends them to every memory.
  template <class Change>
  void change_policy(int seat, const Change& change) {
    Sequence& c = at(seat);
    const Policy policy = c.policy;
    const Prices prices = c.prices;
    change(c);
    // Floats that are equal but have different bits are sent, too. That does no harm.
    // NOLINTBEGIN(bugprone-suspicious-memory-comparison)
    if (std::memcmp(&policy, &c.policy, sizeof policy) != 0 ||
        std::memcmp(&prices, &c.prices, sizeof prices) != 0)
      send_policy(seat);
    // NOLINTEND(bugprone-suspicious-memory-comparison)
  }
  // Makes the draft of a seat sit out the next rounds: no node of the chain has draft KV any more,
  // and no branches are left. Called between rounds.
  void sit_out(int seat);
  // Adds a round's tokens to the host's copy of a sequence. Does nothing if the ops write that copy
  // themselves.
  void take_in(int seat, const Record& record, int64_t round);
  // Notes in the host's copy that the draft has been fed the first `have` positions. Does nothing
  // if the ops write that copy themselves.
  void took_draft_to(int seat, int64_t have) {
    if (!config.can().has_host_memory) at(seat).draft_have = std::min(have, at(seat).head);
  }

  void close();  // joins every thread, then drops the models
  void leave();  // in a fork: frees nothing, because the threads to join do not exist

  RuntimeConfig config;
  std::shared_ptr<const Model> models[2];
  std::unique_ptr<Exec> exec;
  LaneMemory memories[kMemories];  // the second memory is used only if is_apart()
  // [seats, room] rank of each token of a trunk in the draft's distribution; empty without `auto`.
  // This is in pinned memory: ops of both lanes write it, and the tuner reads it.
  Cells<uint8_t> ranks;
  Cells<Roll> rolls;  // four rolls: target rounds, draft rounds, target pieces, draft pieces
  Cells<TargetScratch> target_scratch;
  Cells<DraftScratch> draft_scratch;
  Cells<Records> records;
  Buffer<float> features, hrad_scratch;  // used on the CPU; a device uses hrad_memory
  HradMemory hrad_memory;
  std::vector<LogprobStore> logprobs;  // [seats]
  // [seats] the lists to which ops write the log-probs that requests ask for.
  Cells<Logprobs> asked;
  // [vocab] 1: no token has this id; empty if every id has a token.
  Cells<uint8_t> hole;
  ScoreMemory scores;  // empty unless the config allows rejection
  LaneUnit target, draft;
  Launches launches;  // the currently selected launches; see Expected in model/lane.h
  int64_t room() const { return config.max_model_len + kSlots; }  // tokens of a trunk

 private:
  std::span<LaneMemory> used() { return {memories, is_apart() ? 2u : 1u}; }
  // Returns the address of pinned memory for the ops that use memory number `place`. Ops on the host
  // reach pinned memory at its address there.
  template <class T>
  T* pinned_at(const Cells<T>& cells, int place) const {
    return exec->can_at(place).has_host_memory ? cells.host() : cells.device();
  }
  const Roll* rolls_of(const LaneUnit& unit) const { return pinned_at(rolls, unit.memory->place); }
  void bind(LaneUnit& unit, const Model& model, int64_t max_len);
  void bind_draft();
  void make_memory();
  void make_sequences(LaneMemory& memory);
  void make_shaping(LaneMemory& memory);
  void start_in(LaneMemory& memory, int seat, const Request& request);
  void send_sequence(LaneMemory& own, int seat);
  void send_policy(int seat);
  void send_fields(const LaneMemory& memory, int seat, const void* begin, const void* end);
  void make_streams();
  void make_features();
  void make_scores();
  void make_logprobs();
};

}  // namespace sbrt
