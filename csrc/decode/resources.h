// The resources of an engine: models, lanes with their streams, and the memory of the ops.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
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

// One model bound to one stream, one KV ring and its graphs.
struct LaneUnit {
  std::unique_ptr<Lane> lane;
  Columns columns;  // columns of its logits that are tokens of the engine
  std::vector<ChooseScratch> scratch;
  std::unique_ptr<Stream> stream;
  LaneMemory* memory = nullptr;
  Batch* batch = nullptr;                // the host's copy
  const Block* scratch_block = nullptr;  // its location, at the beginning of the block
  Graph timed_forward{"timed_forward"};  // for any number of rows, with its sampling
  int width = 1;                         // members of the team when the lane runs alone
  int32_t max_rows = 0;                  // rows of its largest forward
  int32_t timed_rows = 0;                // rows of timed_forward
  const int64_t* cost = nullptr;         // virtual time of its forwards by rows: the current table
  Feed feed;
  Event timed{"timed"};
  Roll* roll = nullptr;      // seats that take part in a round of it
  Roll* fed_roll = nullptr;  // seats of a piece of a prompt
  int fed_at = 0;            // of LaneMemory::ended: finished pieces, counted by its ops
};

struct Resources {
  // Throws InvalidInput for impossible sizes. `draft` may be null.
  Resources(std::shared_ptr<const Model> of_target, std::shared_ptr<const Model> of_draft,
            const RuntimeConfig& given);

  bool has_draft() const { return draft.lane != nullptr; }
  int count() const { return config.max_num_seqs; }  // number of seats
  bool is_apart() const { return config.is_apart(); }
  // The host's copy of a sequence; with two memories that of the target's.
  Sequence& at(int seat) const { return memories[0].at(seat); }
  // The sequences, for the ops of a lane: those in a round, or in a piece of a prompt.
  Seats seats(const LaneUnit& unit) const;
  Seats fed_seats(const LaneUnit& unit) const;
  // Fills a seat for a checked request, and sends it. No round or piece in flight uses that seat.
  // target_have, draft_have: positions whose KV exists.
  void start_sequence(int seat, const Request& request, int64_t target_have = 0,
                      int64_t draft_have = 0);
  // How many of the first `most` tokens of a seat's trunk are these.
  int64_t same_tokens(int seat, const int32_t* tokens, int64_t most) const;
  int32_t* trunk(int seat) const { return memories[0].trunks.host() + seat * room(); }
  // The lanes count rounds from this one on, and pieces from those enqueued so far. Nothing may be in
  // flight.
  void count_from(int64_t round);

  // For `auto`. Between rounds: `change` sets policy and prices of a seat in the host's copy, which
  // are then sent.
  template <class Change>
  void change_policy(int seat, const Change& change) {
    Sequence& c = at(seat);
    const Policy policy = c.policy;
    const Prices prices = c.prices;
    change(c);
    // Equal values of other bits are sent, too, which does no harm.
    // NOLINTBEGIN(bugprone-suspicious-memory-comparison)
    if (std::memcmp(&policy, &c.policy, sizeof policy) != 0 ||
        std::memcmp(&prices, &c.prices, sizeof prices) != 0)
      send_fields(seat, &c.policy, &c.prices + 1);
    // NOLINTEND(bugprone-suspicious-memory-comparison)
  }
  // Between rounds: the draft of a seat sits out the next one, so it has nothing of its chain, and no
  // branch of a later one.
  void sit_out(int seat);
  // Adds a round's tokens to the host's copy of a sequence, where ops do not write that copy.
  void take_in(int seat, const Record& record, int64_t round);
  // The same for positions that the draft was fed.
  void took_draft_to(int seat, int64_t have) {
    if (!config.can().has_host_memory) at(seat).draft_have = std::min(have, at(seat).head);
  }

  void close();  // joins every thread, then drops the models
  void leave();  // in a fork: there is no thread to join, so nothing is freed

  RuntimeConfig config;
  std::shared_ptr<const Model> models[2];
  std::unique_ptr<Exec> exec;
  LaneMemory memories[2];  // the second one only if is_apart()
  Cells<Roll> rolls;       // for rounds and for pieces: the target's two, then the draft's
  Cells<TargetScratch> target_scratch;
  Cells<DraftScratch> draft_scratch;
  Cells<Records> records;
  Buffer<float> features, hrad_scratch;  // on the host; a device has
  HradMemory hrad_memory;
  std::vector<LogprobStore> logprobs;  // [seats]
  Cells<Logprobs> asked;               // [seats] the same, for ops
  Cells<uint8_t> hole;                 // [vocab] 1: no token has this id; none without such ids
  ScoreMemory scores;                  // none unless the engine was built for rejection
  LaneUnit target, draft;
  Launches launches;                                              // in force: Expected
  int64_t room() const { return config.max_model_len + kSlots; }  // tokens of a trunk

 private:
  void make_memory();
  void make_sequences(LaneMemory& memory);
  void make_shaping(LaneMemory& memory);
  void start_elsewhere(int seat, const Request& request);
  void send_sequence(int seat);
  void send_fields(int seat, const void* begin, const void* end);
  void make_streams();
  void make_features();
  void make_scores();
  void make_logprobs();
};

}  // namespace sbrt
