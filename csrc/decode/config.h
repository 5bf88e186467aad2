// The configuration of an engine, and the limits that follow from it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "exec/backends.h"
#include "model/lane.h"
#include "decode/costs.h"
#include "round/hrad.h"
#include "decode/request.h"
#include "state/policy.h"

namespace sbrt {

struct RuntimeConfig {
  int64_t max_model_len = 0;  // longest trunk, tokens
  int32_t vocab = 0;  // number of the target's logits in use, 0: none; a draft may have fewer
  std::vector<int32_t> holes;  // ids below vocab that no token has: masked in every row
  int32_t num_threads = 1;     // in total
  int32_t draft_threads = 1;   // of these, the draft's while the lanes overlap
  // Cores for the teams of worker threads, one for each member, which is pinned there. Then a lane has
  // its own team at any time, and the threads are these. Empty: the threads are not pinned.
  std::vector<int32_t> target_cores, draft_cores;
  int32_t max_gamma = 4;
  int32_t max_branches = 8;
  int32_t max_width = 1;         // most nodes that a branch grows in a step
  int32_t max_num_seqs = 1;      // sequences at once
  bool reuses_prefixes = false;  // a prompt reuses KV that a seat has for its beginning
  int32_t max_piece = kMaxRows;  // most tokens of a prompt between two rounds
  int64_t first_round = 1;       // counters are 64-bit: tests start them high
  Backend backend = Backend::cpu;
  int32_t device = 0;                // of the cuda backend
  int32_t draft_device = kNoSecond;  // the draft's, whose state then has a memory of its own
  bool draft_first = true;           // on a device: the draft's stream is the more urgent one
  bool nvtx = false;                 // ranges of rounds, graphs and prefill, for profilers
  bool debug = false;  // poison memory that must not be read, check every slot's position
  std::shared_ptr<const Costs> costs;   // virtual time, only on the sim backend
  std::vector<Policy> tuned;            // candidates of `auto`, plain decoding first
  std::shared_ptr<const Costs> tuning;  // costs by which `auto` chooses; null: they are measured
  std::shared_ptr<const Hrad> hrad;     // for policies that use it
  bool keep_features = false;           // for features(); implied by hrad
  bool rejection = false;               // memory for policies with that rule

  Capabilities can() const { return capabilities_of(backend); }
  // The lanes' state is in two memories.
  bool is_apart() const { return draft_device != kNoSecond; }
  // Threads of the target while the draft works too.
  int32_t target_share() const {
    return num_threads > draft_threads ? num_threads - draft_threads : 1;
  }
};

// All throw InvalidInput, with the thing, the expected and the given value.
void check_config(const RuntimeConfig& config, const Model& target);
void check_policy(const Policy& policy, const RuntimeConfig& config, bool has_draft);
// target_vocab: number of the target's logits, of which config.vocab are used.
void check_request(const Request& request, const RuntimeConfig& config, int32_t target_vocab,
                   bool has_draft);

}  // namespace sbrt
