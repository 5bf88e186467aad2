// What an engine is made with, and the limits that follow from it.
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
  int32_t vocab = 0;  // the target's logits are cut to this, 0: to none; a draft may have fewer
  std::vector<int32_t> holes;  // ids below vocab that no token has: masked in every row
  int32_t num_threads = 1;     // in total
  int32_t draft_threads = 1;   // of them the draft's while the lanes overlap
  int32_t max_gamma = 4;
  int32_t max_branches = 8;
  int32_t max_width = 1;         // nodes that a branch grows in a step
  int32_t max_num_seqs = 1;      // sequences at once
  bool reuses_prefixes = false;  // a prompt takes the KV that a seat has of its beginning
  int32_t max_piece = kMaxRows;  // tokens of a prompt that go in between two rounds
  int64_t first_round = 1;       // counters are 64-bit: tests start them high
  Body body = Body::cpu;
  int32_t device = 0;                  // of the cuda body
  bool draft_first = true;             // on a device: the draft's stream is the more urgent one
  bool nvtx = false;                   // ranges of rounds, graphs and prefill, for profilers
  bool debug = false;                  // poison what must not be read, check every slot's position
  std::shared_ptr<const Costs> costs;  // virtual time: of the sim body only
  std::vector<Policy> tuned;           // what `auto` may choose from, plain decoding the first
  std::shared_ptr<const Hrad> hrad;    // of policies that ask for it
  bool keep_features = false;          // for features(); implied by hrad
  bool rejection = false;              // room for policies of that rule

  Capabilities can() const { return capabilities_of(body); }
  // Threads of the target while the draft works too.
  int32_t target_share() const {
    return num_threads > draft_threads ? num_threads - draft_threads : 1;
  }
};

// All throw InvalidInput, with the thing, what was expected and what was given.
void check_config(const RuntimeConfig& config, const Model& target);
void check_policy(const Policy& policy, const RuntimeConfig& config, bool has_draft);
// target_vocab: logits that the target has, of which config.vocab count.
void check_request(const Request& request, const RuntimeConfig& config, int32_t target_vocab,
                   bool has_draft);

}  // namespace sbrt
