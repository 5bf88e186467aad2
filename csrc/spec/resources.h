// What an engine owns: models, lanes with their streams, and the memory that ops reach.
#pragma once

#include <memory>
#include <vector>

#include "model/lane.h"
#include "ops/choose.h"
#include "spec/accept.h"
#include "spec/config.h"
#include "spec/feed.h"
#include "spec/hrad_memory.h"
#include "spec/request.h"
#include "spec/row_bounds.h"
#include "state/record.h"
#include "state/roll.h"

namespace sbrt {

constexpr int kSeats = 1;  // sequences at once
constexpr int kFed = 0;    // the seat that prompts are fed to

// One model bound to one stream, one KV ring and its graphs.
struct LaneUnit {
  std::unique_ptr<Lane> lane;
  std::vector<ChooseScratch> scratch;
  std::unique_ptr<Stream> stream;
  Batch* batch = nullptr;                // the host's copy
  const Block* scratch_block = nullptr;  // where it lies, at the beginning
  Graph timed_forward{"timed_forward"};  // of any rows, with its choice
  int width = 1;                         // members of the team when the lane runs alone
  int32_t max_rows = 0;                  // of its largest forward
  int32_t timed_rows = 0;                // of timed_forward
  RowBounds most{};                      // of the round's forwards: Expected
  const int64_t* cost = nullptr;  // of its forwards by rows, in virtual time: the table in force
  Event prefilled{"prefilled"};
  int64_t pieces = 0;  // of prompts, enqueued so far; `prefilled` counts those done
  Feed feed;
  Event timed{"timed"};
};

struct Resources {
  // Throws InvalidInput for sizes that cannot be. `draft` may be null.
  Resources(std::shared_ptr<const Model> of_target, std::shared_ptr<const Model> of_draft,
            const RuntimeConfig& given);

  bool has_draft() const { return draft.lane != nullptr; }
  // The sequences, for the ops. `only`: Seats::only.
  Seats seats(int only = -1) const;
  // Fills the seat for a checked request, and sends it. Nothing is in flight.
  void start_sequence(const Request& request);
  void send_sequence();  // what the host wrote, for all that is enqueued from here on
  void close();          // joins every thread, then drops the models
  void leave();          // in a fork: there is nobody to join, so nothing is freed

  RuntimeConfig config;
  std::shared_ptr<const Model> models[2];
  std::unique_ptr<Exec> exec;
  Cells<Sequence> sequences;
  Cells<Roll> roll;
  Cells<int64_t> ended;  // Seats::ended
  Cells<TargetScratch> target_scratch;
  Cells<DraftScratch> draft_scratch;
  Cells<Records> records;
  Cells<int32_t> trunk;
  Cells<uint8_t> ranks;
  Buffer<float> features, hrad_scratch;  // of the host; a device has
  HradMemory hrad_memory;
  ShapingStore shaping;
  AcceptMemory accept;
  Sequence* sequence = nullptr;  // the host's copy; on the cpu there is one only
  LaneUnit target, draft;

 private:
  void make_memory();
  void make_streams();
  void make_features();
  void make_scores();
};

}  // namespace sbrt
